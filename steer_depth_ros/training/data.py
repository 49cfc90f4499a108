# Copyright 2026 The steer_depth_ros contributors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The data of a training run: a weighted mixture of data sets, as examples per step."""
import inspect
import math
import os
from pathlib import Path
import signal

import cv2
from torch.utils.data import DataLoader, Dataset

from steer_depth_ros.errors import ConfigError, SteerDepthError

PREFETCH = 4  # steps per worker
STRING_ARGUMENTS = 'data_dir', 'folder', 'pattern', 'split'


def rendered(frames=1500, patterns=4, seed=1, size='320x240', folder=None):
    """
    Open rendered scenes, each measured by `patterns` sensors, cached in `folder`.

    The default folder is in the user's cache, one per number of sensors.
    """
    from steer_depth_ros.synthetic.cached import RenderedFrames
    if folder is None:
        cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        folder = Path(cache, 'steer_depth_ros', 'rendered', f'{patterns}_sensors')
    for name, value in (('frames', frames), ('patterns', patterns)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f'{name} must be a whole number of at least 1, not {value!r}')
    try:
        return RenderedFrames(Path(folder).expanduser(), frames, patterns, seed, _size(size))
    except OSError as error:
        raise ConfigError(f'cannot keep scenes in {folder} ({error.strerror}); choose another '
                          'folder') from None


def nyu(data_dir, split='train', pattern='random:500', seed=0):
    """Open NYUv2, see `NyuFrames`."""
    from steer_depth_ros.datasets.nyu import NyuFrames
    return NyuFrames(Path(data_dir).expanduser(), split, pattern, seed)


def kitti(data_dir, split='train', pattern='sensor', seed=0):
    """Open KITTI depth completion, see `KittiFrames`."""
    from steer_depth_ros.datasets.kitti import KittiFrames
    return KittiFrames(Path(data_dir).expanduser(), split, pattern, seed)


def frames(data_dir, pattern=None, seed=0):
    """Open recorded frames, see `FolderFrames`."""
    from steer_depth_ros.datasets.folder_dataset import FolderFrames
    return FolderFrames(Path(data_dir).expanduser(), pattern, seed)


def bag(data_dir, pattern=None, seed=0):
    """Open a recording, see `BagFrames`."""
    from steer_depth_ros.datasets.bag_dataset import BagFrames
    return BagFrames(Path(data_dir).expanduser(), pattern, seed)


DATASETS = {kind.__name__: kind for kind in (rendered, nyu, kitti, frames, bag)}


def _size(text):
    try:
        width, height = (int(part) for part in str(text).lower().split('x'))
    except ValueError:
        width = height = 0
    if min(width, height) < 16:
        raise ConfigError(f'size must be WIDTHxHEIGHT of 16 pixels or more, not {text!r}')
    return height, width


def open_data(entries):
    """
    Open the data sets of a configuration as one Mixture.

    entries: mappings with `dataset` (a key of DATASETS), `weight` (default 1) and the arguments
    of that function. Raise ConfigError naming the entry that is wrong.
    """
    opened = [_open(dict(entry), f'data entry {number}')
              for number, entry in enumerate(entries, 1)]
    return Mixture([data for data, _ in opened], [weight for _, weight in opened])


def _open(entry, where):
    kind, weight = entry.pop('dataset', None), entry.pop('weight', 1)
    if kind not in DATASETS:
        raise ConfigError(f'{where}: dataset must be one of {", ".join(DATASETS)}, not {kind!r}')
    if not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise ConfigError(f'{where}: weight must be a number above 0, not {weight!r}')
    arguments = inspect.signature(DATASETS[kind]).parameters
    for key in entry:
        if key not in arguments:
            raise ConfigError(f'{where}: {kind} has no {key!r}, only weight, '
                              f'{", ".join(arguments)}')
    for name, argument in arguments.items():
        if argument.default is argument.empty and name not in entry:
            raise ConfigError(f'{where}: {kind} needs {name}')
    for name in entry.keys() & set(STRING_ARGUMENTS):
        if not isinstance(entry[name], str) and entry[name] != arguments[name].default:
            raise ConfigError(f'{where}: {name} must be a text, not {entry[name]!r}')
    seed = entry.get('seed', 0)
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f'{where}: seed must be a whole number of at least 0, not {seed!r}')
    try:
        return DATASETS[kind](**entry), weight
    except ConfigError as error:
        raise ConfigError(f'{where}: {error}') from None


class Mixture(Dataset):
    """
    Several data sets combined into one, each with its share of the indices.

    sets: data sets. weights: how often each is drawn, relative to the others. Every frame of
    every set has an index; a set with a share larger than its length is repeated. A single set
    keeps its indices. epoch: passed on to data sets that draw samples from measurements.
    """

    def __init__(self, sets, weights):
        self.sets, self.epoch = sets, 0
        smallest = max(len(data) / weight for data, weight in zip(sets, weights))
        self.shares = [max(len(data), round(smallest * weight))
                       for data, weight in zip(sets, weights)]

    def __len__(self):
        return sum(self.shares)

    def __getitem__(self, index):
        for data, share in zip(self.sets, self.shares):
            if index < share:
                if hasattr(data, 'epoch'):
                    data.epoch = self.epoch
                return data[index % len(data)]
            index -= share
        raise IndexError('the index is beyond the last frame')


class StepExamples(Dataset):
    """
    The examples of one process: item `step` is the list of examples of that step.

    choose: function from a step to data set indices and flips. part: slice of them for this
    process. make: function from a data set item and a flip to an example. If the data cannot be
    used, the item is the error.
    """

    def __init__(self, data, choose, part, make):
        self.data, self.choose, self.part, self.make = data, choose, part, make

    def __getitem__(self, step):
        indices, flips = self.choose(step)
        if isinstance(self.data, Mixture):
            self.data.epoch = step  # draws new samples whenever a measured frame is used again
        try:
            return [self.make(self.data[int(i)], bool(flip))
                    for i, flip in zip(indices[self.part], flips[self.part])]
        except SteerDepthError as error:
            return error  # raised in the main process; DataLoader would add a traceback


def load_steps(examples, steps, workers):
    """Return an iterable of the examples of each step, prepared ahead by `workers` processes."""
    if not workers:
        return DataLoader(examples, batch_size=None, sampler=steps)
    # Fork would deadlock after training, waiting for OpenMP threads that do not exist there.
    return DataLoader(examples, batch_size=None, sampler=steps, num_workers=workers,
                      prefetch_factor=PREFETCH, worker_init_fn=_start_worker,
                      multiprocessing_context='spawn')


def _start_worker(_):
    cv2.setNumThreads(1)
    # Ctrl-C is handled by the training process: it finishes its step, saves and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
