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
"""A recording as a data set for training, with random access to its frames."""
from typing import Any, Optional

import numpy as np
from torch.utils.data import Dataset

from steer_depth_ros.datasets.held_out import example_from_frame
from steer_depth_ros.errors import BagError, SteerDepthError
from steer_depth_ros.recordings import bag, bag_frames
from steer_depth_ros.recordings.frame_folder import RecordedFrame
from steer_depth_ros.recordings.parts import found_jobs, place_of, placed_job
from steer_depth_ros.ros import messages

FIRST_FEW = 5  # frames of which one must be usable


class BagFrames(Dataset):
    """
    The frames of a recording, paired as in the node; samples depend only on (seed, epoch, i).

    data_dir: a rosbag2 folder, .mcap or .db3 file; its truth topic is used if it has one. pattern:
    sampling pattern, None for the default for the frame (see `example_from_frame`). Items are
    like those of `MeasuredFrames`. Raise BagError if nothing can be used, and when reading a frame
    also MessageError and CalibrationError naming the topic.
    """

    def __init__(self, data_dir, pattern=None, seed=0):
        self.path, self.pattern, self.seed, self.epoch = data_dir, pattern, seed, 0
        self._opened: Any = None
        with bag.BagReader(data_dir) as recording:
            self.topics = bag_frames.choose_topics(recording)
            self.values = bag_frames.node_values(recording, self.topics)
            self.jobs = [placed_job(job) for job in bag_frames.read_jobs(
                recording, self.topics, self.values, bag_frames.Drops())]
            self.truth = _truth(recording)
        self._check_first()

    def __len__(self):
        return len(self.jobs)

    def __getstate__(self):
        """Return the state without the open file; every process opens its own."""
        return {**self.__dict__, '_opened': None}

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return example_from_frame(self.read(index), self.pattern, rng).item()

    def _check_first(self):
        """Raise the error of the first frame when none of the first few can be used."""
        first: Optional[SteerDepthError] = None
        for index in range(min(FIRST_FEW, len(self))):
            try:
                self.read(index)
                break
            except SteerDepthError as error:
                first = first or error
        else:
            raise first or BagError(f'{self.path} holds no frame')
        self._opened[0].close()
        self._opened = None  # every process opens its own

    def read(self, index) -> RecordedFrame:
        """Read one frame."""
        if self._opened is None:
            recording = bag.BagReader(self.path)
            self._opened = recording, bag_frames.make_pipeline(recording, self.values,
                                                               self.topics)
        recording, pipeline = self._opened
        [job] = found_jobs([self.jobs[index]], recording)
        frame = bag_frames.run_job(pipeline, self.topics, job).frame
        truth = None
        if frame.stamp_ns in self.truth:
            record = recording.at(*self.truth[frame.stamp_ns])
            truth = messages.depth_to_metres(recording.decode(record))
        return RecordedFrame(f'{self.path} frame {index}', frame, truth=truth)


def _truth(recording):
    """Return the place of the ground truth by image stamp."""
    if bag_frames.TRUTH not in recording.topics:
        return {}
    places = map(place_of, recording.messages(bag_frames.TRUTH))
    return {place.stamp_ns: place for place in places}
