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
from functools import partial
import inspect
import math
import os
from pathlib import Path
import pickle
import signal
from typing import Callable, Dict

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from steer_depth_ros.datasets.bag_dataset import BagFrames
from steer_depth_ros.datasets.folder_dataset import FolderFrames
from steer_depth_ros.datasets.kitti import KittiFrames
from steer_depth_ros.datasets.nyu import NyuFrames
from steer_depth_ros.errors import ConfigError, DatasetError, SteerDepthError
from steer_depth_ros.training.variation import vary

PREFETCH = 4  # steps per worker
STRING_ARGUMENTS = 'data_dir', 'folder', 'pattern', 'split'


def rendered(frames=1500, patterns=4, seed=1, size='320x240', folder=None, vary=False):
    """
    Open rendered scenes, each measured by `patterns` sensors, cached in `folder`.

    The default folder is in the user's cache, one per number of sensors. vary: with other colors
    and depths for each sensor, see `variation.vary`.
    """
    from steer_depth_ros.synthetic.cached import RenderedFrames
    from steer_depth_ros.synthetic.procedural import parse_size
    if folder is None:
        cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        folder = Path(cache, 'steer_depth_ros', 'rendered', f'{patterns}_sensors')
    for name, value in (('frames', frames), ('patterns', patterns)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f'{name} must be a whole number of at least 1, not {value!r}')
    try:
        scenes = RenderedFrames(Path(folder).expanduser(), frames, patterns, seed,
                                parse_size(size))
        return Varied(scenes, seed) if vary else scenes
    except OSError as error:
        raise ConfigError(f'cannot keep scenes in {folder} ({error.strerror}); choose another '
                          'folder') from None


DATASETS: Dict[str, Callable] = {
    'rendered': rendered, 'nyu': partial(NyuFrames, split='train'),
    'kitti': partial(KittiFrames, split='train'), 'frames': FolderFrames, 'bag': BagFrames}


def open_data(entries):
    """
    Open the data sets of a configuration as one Mixture.

    entries: mappings with `dataset` (a key of DATASETS), `weight` (default 1) and the arguments
    of that data set. Raise ConfigError naming the entry that is wrong.
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
    if 'data_dir' in entry:
        entry['data_dir'] = Path(entry['data_dir']).expanduser()
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


class Varied(Dataset):
    """Another data set with `vary` applied; item i depends only on (seed, i)."""

    def __init__(self, data, seed):
        self.data, self.seed = data, seed

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        item = self.data[index]
        rng = np.random.default_rng([self.seed, index])
        image, depth, sparse = vary(np.asarray(item['image']), np.asarray(item['depth']),
                                    np.asarray(item['sparse']), rng)
        return {**item, 'image': image, 'depth': depth, 'sparse': sparse}


class Prepared:
    """
    Examples made of a data set: once and kept in files, as that may take longer than a step.

    make: function from a data set item and a flip to an example, which can be mirrored.
    folder: of the files; '': examples are made anew each time.
    """

    def __init__(self, data, make, folder):
        self.data, self.make = data, make
        self.folder = Path(folder).expanduser() if folder else None
        try:
            if self.folder:
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f'cannot keep examples in {folder} ({error.strerror}); choose '
                              'another cache') from None

    def __call__(self, index, flip):
        """Return example `index` of the data."""
        if not self.folder:
            return self.make(self.data[index], flip)
        path = self.folder / f'{index:08d}.pt'
        if path.exists():
            inputs, truth = self._read(path)
        else:
            inputs, truth = self.make(self.data[index], False)
            partial_file = path.with_suffix(f'.{os.getpid()}')
            torch.save((inputs, truth), partial_file)
            os.replace(partial_file, path)  # readers never see half a file
        return (inputs.mirrored(), truth.flip(-1)) if flip else (inputs, truth)

    @staticmethod
    def _read(path):
        try:
            return torch.load(path, weights_only=False)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise DatasetError(f'{path} is damaged ({error}); delete it, and it will be made '
                               'again') from None


class StepExamples(Dataset):
    """
    The examples of one process: item `step` is the list of examples of that step.

    choose: function from a step to data set indices and flips. part: slice of them for this
    process. make: function from an index and a flip to an example. collate: what joins examples,
    with a random generator; None: they stay a list. If the data cannot be used, the item is the
    error.
    """

    def __init__(self, data, choose, part, make, collate=None):
        self.data, self.choose, self.part, self.make = data, choose, part, make
        self.collate = collate

    def __getitem__(self, step):
        indices, flips = self.choose(step)
        if isinstance(self.data, Mixture):
            self.data.epoch = step  # draws new samples whenever a measured frame is used again
        try:
            made = [self.make(int(i), bool(flip))
                    for i, flip in zip(indices[self.part], flips[self.part])]
            if self.collate is None:
                return made
            return self.collate(made, np.random.default_rng([step, len(made)]))
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
    torch.set_num_threads(1)
    os.nice(5)  # the process that trains comes first
    # Ctrl-C is handled by the training process: it finishes its step, saves and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
