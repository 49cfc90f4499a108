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
import numpy as np

from steer_depth_ros.synthetic.drive import drive_frames

SMALL = 60, 180


def test_samples_agree_with_the_truth():
    for recorded in drive_frames(2, size=SMALL):
        samples = recorded.frame.sparse_depth()
        u, v = np.rint(samples.uv).astype(int).T
        truth = recorded.truth[v, u]
        apart = np.abs(samples.depth - truth) / truth
        # Edges, and what the LiDAR sees past an object, are the exceptions.
        assert len(samples) > 500
        assert np.nanmedian(apart) < 0.01


def test_the_camera_moves_and_the_street_stays():
    first, second = drive_frames(2, size=SMALL)
    assert second.frame.stamp_ns - first.frame.stamp_ns == 100_000_000
    assert first.frame.camera == second.frame.camera
    # Half a meter nearer to all that stands still ahead.
    both = first.truth[25:35, 85:95] - second.truth[25:35, 85:95]
    assert abs(np.nanmedian(both) - 0.5) < 0.05


def test_the_same_seed_gives_the_same_frames():
    one, other = (next(drive_frames(1, size=SMALL)) for _ in range(2))
    np.testing.assert_array_equal(one.frame.image, other.frame.image)
    np.testing.assert_array_equal(one.frame.points, other.frame.points)
    np.testing.assert_array_equal(one.truth, other.truth)
