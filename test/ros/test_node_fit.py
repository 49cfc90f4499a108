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
"""A node whose extrinsics are wrong says so on /diagnostics, over DDS."""
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from node_rig import BASE, header, MS, Rig  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402

from steer_depth_ros.calibration.optimize import corrected  # noqa: E402
from steer_depth_ros.geometry.transforms import quaternion_from  # noqa: E402
from steer_depth_ros.ros import messages  # noqa: E402
from steer_depth_ros.synthetic.drive import CAMERA_FROM_LIDAR, drive_frames  # noqa: E402

START = 1_900_000_000_000 * MS


@pytest.mark.parametrize('degrees, fits', [(1.2, False), (0.0, True)])
def test_extrinsics_that_are_off_are_told_with_a_remedy(context, degrees, fits):
    pose = corrected(CAMERA_FROM_LIDAR, np.array([0, degrees, 0, 0, 0, 0, 0], float))
    frames = [recorded.frame for recorded in drive_frames(3, seed=6, size=(240, 720))]
    clouds = [np.column_stack([frame.points, np.zeros(len(frame.points), np.float32)])
              for frame in frames]
    rig = Rig(*BASE, f'extrinsics.xyz:={pose[:3, 3].tolist()}',
              f'extrinsics.quaternion:={quaternion_from(pose).tolist()}')
    seen = []
    rig.node.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)
    rig.listen('debug/overlay')
    rig.info.publish(messages.fill(CameraInfo(header=header(0)),
                                   messages.camera_info_fields(frames[0].camera)))
    rig.spin(0.3)

    def said():
        last = {item.key: item.value for item in seen[-1].status[0].values} if seen else {}
        return last.get('points and image fit', '')

    for index in range(40):
        rig.send_points(START + index * 250 * MS, clouds[index % 3])
        rig.send_image(START + index * 250 * MS, frames[index % 3].image)
        rig.spin(0.25)
        if 'over 3 s' in said():
            break
    assert said(), rig.said()
    warned = 'points and image do not fit' in seen[-1].status[0].message
    assert warned != fits, said()
    if warned:
        assert 'about y' in said() and 'steer_depth calibrate' in seen[-1].status[0].message
    status, text = rig.close()
    assert status == 0, text
