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
"""A folder of recorded frames as a data set for training."""
import numpy as np
from torch.utils.data import Dataset

from steer_depth_ros.datasets.held_out import example_from_frame
from steer_depth_ros.recordings.frame_folder import find_frames, read_frame


class FolderFrames(Dataset):
    """
    Recorded frames; the samples of frame i depend only on (seed, epoch, i).

    data_dir: a folder of frame folders. pattern: sampling pattern, None for the default for the
    frame (see `example_from_frame`). Items are like those of `MeasuredFrames`. Raise DatasetError
    if the folder holds no frame, and when reading a damaged file, naming it.
    """

    def __init__(self, data_dir, pattern=None, seed=0):
        self.paths = find_frames(data_dir)
        self.pattern, self.seed, self.epoch = pattern, seed, 0

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return example_from_frame(read_frame(self.paths[index]), self.pattern, rng).item()
