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
"""Frames for calibration: from folders and recordings, with the cloud that comes next."""
from dataclasses import dataclass
from typing import Callable, List, Optional

import numpy as np

from steer_depth_ros.errors import BagError, FrameError, SteerDepthError
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.recordings.bag_frames import Drops, make_pipeline, read_jobs, run_job
from steer_depth_ros.recordings.bag_tools import open_bag
from steer_depth_ros.recordings.frame_folder import (
    find_frames,
    FIRST_STAMP_NS,
    PERIOD_NS,
    read_frame,
)
from steer_depth_ros.ros import messages

LARGEST_GAP_NS = 500_000_000  # to the cloud that comes next
# What would mix clouds of several times and places; the extrinsics are the same without.
SINGLE_CLOUD = {'accumulate_s': 0.0, 'compensate_point_times': False}


@dataclass
class Observation:
    """
    A frame, and the cloud of the same sensor that was measured next.

    depth_ns: when the cloud was measured, on the clock of the image, as far as its stamp and
    time_offset_s tell. moved: whether camera_from_points already holds the motion from there to
    the image. points_frame: name of the sensor's frame. later, later_ns: None where there is no
    next cloud.
    """

    name: str
    frame: Frame
    depth_ns: int
    moved: bool = False
    points_frame: str = 'lidar'
    later: Optional[np.ndarray] = None
    later_ns: int = 0


def spread(total: int, count: int) -> List[int]:
    """Return up to `count` indices, evenly over `total`."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})


def observe_folder(folder, count: int,
                   progress: Callable[[float], None] = lambda share: None) -> List[Observation]:
    """Read up to `count` frames of a folder of frames with clouds, evenly spread."""
    paths = find_frames(folder)

    def read(index):
        return read_frame(paths[index], FIRST_STAMP_NS + index * PERIOD_NS)

    found = []
    chosen = spread(len(paths), count)
    for index in chosen:
        recorded = read(index)
        frame = recorded.frame
        if frame.points is None:
            raise FrameError(f'{paths[index]} has a depth image that lies over its image already: '
                             'there is no pose to calibrate; give frames with a cloud')
        one = Observation(recorded.name, frame, frame.stamp_ns)
        if index + 1 < len(paths):
            after = read(index + 1).frame
            if after.points is not None:
                _follow(one, after.points, after.stamp_ns)
        found.append(one)
        progress(len(found) / len(chosen))
    return found


def observe_bag(path, count: int, topics=None, given=None, calibration=None,
                progress: Callable[[float], None] = lambda share: None,
                tell: Callable[[str], None] = lambda sentence: None):
    """
    Read up to `count` frames of a recording, evenly spread, with the node's own parameters.

    topics: keyword arguments of `choose_topics`. given: parameters that differ from the defaults.
    calibration: of `read_calibration`. Return the observations and the parameters of the node.
    Raise BagError where no image has a cloud, SteerDepthError of the first frame where none of
    them can be used.
    """
    with open_bag(path, topics, {**(given or {}), **SINGLE_CLOUD}, calibration) as (
            recording, chosen, values, calibration):
        if chosen.points is None:
            raise BagError(f'{path} has no point cloud, only the depth image '
                           f'{chosen.sparse_depth}; calibrate takes a cloud (--points TOPIC)')
        drops = Drops()
        jobs = list(read_jobs(recording, chosen, values, drops, calibration))
        pipeline = make_pipeline(recording, values, chosen, None, tell)
        found: List[Observation] = []
        indices = spread(len(jobs), count)
        for number, index in enumerate(indices):
            job = jobs[index]
            try:
                result = run_job(pipeline, chosen, job)
            except SteerDepthError as error:
                drops.add(error)
                continue
            cloud = job.pair.depth
            result.frame.echo = messages.cloud_echo(cloud.msg)
            one = Observation(f'{result.frame.stamp_ns / 1e9:.3f} s', result.frame,
                              cloud.stamp_ns, bool(values['fixed_frame']),
                              cloud.msg.header.frame_id)
            if index + 1 < len(jobs):
                after = jobs[index + 1].pair.depth
                later = after.msg.msg if hasattr(after.msg, 'record') else after.msg
                _follow(one, messages.cloud_to_xyz(later), after.stamp_ns)
            found.append(one)
            progress((number + 1) / len(indices))
        if not found:
            raise drops.failure(f'no frame of {path} can be used')
    return found, values


def _follow(observation, points, stamp_ns):
    if 0 < stamp_ns - observation.depth_ns <= LARGEST_GAP_NS:
        observation.later, observation.later_ns = points, stamp_ns
