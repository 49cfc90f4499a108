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
import json

import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.ros.messages import camera_from_info

ROS = """image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [500.0, 0., 320.5, 0., 501.0, 240.5, 0., 0., 1.]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.2, 0.05, 0.001, -0.001, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1., 0., 0., 0., 1., 0., 0., 0., 1.]
projection_matrix:
  rows: 3
  cols: 4
  data: [480., 0., 321., 0., 0., 481., 241., 0., 0., 0., 1., 0.]
"""
OPENCV = """%YAML:1.0
---
calibration_time: "today"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 500., 0., 320.5, 0., 501., 240.5, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ -0.2, 0.05, 0.001, -0.001, 0. ]
"""
ECHO = """header:
  stamp: {sec: 5, nanosec: 7}
  frame_id: cam
height: 480
width: 640
distortion_model: plumb_bob
d: [-0.2, 0.05, 0.001, -0.001, 0.0]
k: [500.0, 0.0, 320.5, 0.0, 501.0, 240.5, 0.0, 0.0, 1.0]
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [480.0, 0.0, 321.0, 0.0, 0.0, 481.0, 241.0, 0.0, 0.0, 0.0, 1.0, 0.0]
---
"""
KALIBR = """cam0:
  camera_model: pinhole
  distortion_coeffs: [-0.2, 0.05, 0.001, -0.001]
  distortion_model: radtan
  intrinsics: [500.0, 501.0, 320.5, 240.5]
  resolution: [640, 480]
  rostopic: /cam0/image
cam1:
  camera_model: pinhole
  distortion_coeffs: [0.1, 0.01, 0.001, 0.0001]
  distortion_model: equidistant
  intrinsics: [300.0, 301.0, 320.0, 240.0]
  resolution: [640, 480]
"""
JSON = json.dumps({'fx': 500, 'fy': 501, 'cx': 320.5, 'cy': 240.5, 'width': 640, 'height': 480,
                   'distortion': [-0.2, 0.05, 0.001, -0.001, 0]})
TR = '0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3'
# The right camera is 0.54 m to the right of the gray one whose frame the LiDAR is given in.
KITTI = f"""P0: 700 0 300 0 0 700 200 0 0 0 1 0
P2: 700 0 300 35 0 700 200 0 0 0 1 0
P3: 700 0 300 -378 0 700 200 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: {TR}
"""
CAM_TO_CAM = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_rect_00: 1242 375
R_rect_00: 1 0 0 0 1 0 0 0 1
S_rect_03: 1242 375
P_rect_00: 700 0 300 0 0 700 200 0 0 0 1 0
P_rect_03: 700 0 300 -378 0 700 200 0 0 0 1 0
"""


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize('name, text', [
    ('ost.yaml', ROS), ('ost.yml', OPENCV), ('info.yaml', ECHO), ('camchain.yaml', KALIBR),
    ('meta.json', JSON), ('other.ending', ROS), ('UPPER.JSON', JSON)])
def test_one_camera_in_the_files_of_many_tools(tmp_path, name, text):
    camera = camera_from_info(read_calibration(written(tmp_path, name, text)))
    assert (camera.width, camera.height) == (640, 480)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 501, 320.5, 240.5)
    assert camera.model == 'plumb_bob'
    np.testing.assert_allclose(camera.distortion[:4], [-0.2, 0.05, 0.001, -0.001])


def test_a_rectified_image_takes_the_projection_matrix(tmp_path):
    camera = camera_from_info(read_calibration(written(tmp_path, 'ost.yaml', ROS)), True)
    assert (camera.fx, camera.cx, camera.model) == (480, 321, 'pinhole')


def test_other_cameras_of_kalibr(tmp_path):
    path = written(tmp_path, 'c.yaml', KALIBR)
    assert camera_from_info(read_calibration(path, 'cam1')).model == 'equidistant'
    assert read_calibration(path, '1').k[0] == 300
    with pytest.raises(CalibrationError, match='holds no camera cam7, only cam0, cam1'):
        read_calibration(path, 'cam7')


@pytest.mark.parametrize('camera', ['3', '03', 'image_03', 'P3'])
def test_kitti_places_the_lidar_in_the_camera_of_the_image(tmp_path, camera):
    found = read_calibration(written(tmp_path, 'calib.txt', KITTI), camera)
    matrix = np.eye(4)
    matrix[:3] = np.array(TR.split(), float).reshape(3, 4)
    matrix[0, 3] -= 0.54
    np.testing.assert_allclose(found.camera_from_points, matrix)
    assert found.k[0] == 700 and found.camera == '3 of KITTI'
    # The same pixel as by the 3 x 4 matrix from the frame of the gray camera.
    point = np.array([10, 2, -1, 1.0])
    gray = np.eye(4)
    gray[:3] = np.array(TR.split(), float).reshape(3, 4)
    u, v, w = np.array(KITTI.splitlines()[2].split()[1:], float).reshape(3, 4) @ gray @ point
    uv, _ = camera_from_info(found.of_size(600, 400)).project(
        (found.camera_from_points @ point)[None, :3])
    np.testing.assert_allclose(uv[0], [u / w, v / w])


def test_kitti_raw_takes_the_lidar_from_the_file_beside(tmp_path):
    path = written(tmp_path, 'calib_cam_to_cam.txt', CAM_TO_CAM)
    alone = read_calibration(path, '3')
    assert alone.camera_from_points is None and (alone.width, alone.height) == (1242, 375)
    numbers = np.array(TR.split(), float).reshape(3, 4)
    written(tmp_path, 'calib_velo_to_cam.txt', 'calib_time: 15-Mar\nR: {}\nT: {}\n'.format(
        ' '.join(map(str, numbers[:, :3].ravel())), ' '.join(map(str, numbers[:, 3]))))
    expected = numbers + [[0, 0, 0, -0.54], [0] * 4, [0] * 4]
    np.testing.assert_allclose(read_calibration(path, '3').camera_from_points[:3], expected)
    with pytest.raises(CalibrationError, match='no 3 x 4 matrix of camera 2, only P_rect_00'):
        read_calibration(path)


@pytest.mark.parametrize('text', [
    '721.5 0.0 30.5 0.0 720.5 20.5 0.0 0.0 1.0', '721.5, 0, 30.5\n0, 720.5, 20.5\n0, 0, 1\n',
    '721.5 0 30.5 0\n0 720.5 20.5 0\n0 0 1 0\n0 0 0 1\n',
    '[[721.5,0,30.5],[0,720.5,20.5],[0,0,1]]'])
def test_a_plain_matrix(tmp_path, text):
    found = read_calibration(written(tmp_path, 'intrinsics.txt', text))
    assert (found.width, found.height) == (0, 0)
    camera = camera_from_info(found.of_size(64, 48))
    assert (camera.width, camera.fx, camera.cy) == (64, 721.5, 20.5)


@pytest.mark.parametrize('text, words', [
    ('', 'no JSON object'), ('hello: world', 'lacks the calibration: fx'), ('{"fx": 1}', 'fy'),
    ('{', 'no valid JSON'), ('a: [', 'not valid YAML'), ('1 2 3', 'holds 3 numbers'),
    (ROS.replace('501.0, ', ''), 'camera_matrix has 8 numbers'),
    (ROS.replace('501.0', 'wide'), 'must be numbers'),
    (ROS.replace('640', '-1'), 'must be from 0'),
    (KALIBR.replace('pinhole', 'omni'), 'pinhole-radtan'), ('P2: 1 2 3', 'no 3 x 4 matrix'),
    (KALIBR.replace('[500.0, 501.0, 320.5, 240.5]', '[1, 2]'), 'cannot be used'),
    ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "T_cam_lidar": [1, 2]}', '16 finite numbers'),
    ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "T_cam_lidar": '
     '[1000, 0, 0, 0, 0, 1000, 0, 0, 0, 0, 1000, 0, 0, 0, 0, 1]}', 'T_cam_lidar is no pose'),
    ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "T_cam_lidar": '  # mirrored
     '[-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}', 'T_cam_lidar is no pose'),
    ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "T_cam_lidar": '  # column by column
     '[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 5, 5, 1]}', 'T_cam_lidar is no pose'),
    ('721 0 0 0 720 0 30 20 1', 'last row is not 0 0 1'),
    ('P2: 0 0 0 0 0 0 0 0 0 0 0 0', 'that no camera has'),
    ('P_rect_02: 1 0 0 0 0 1 0 0 0 0 1 0\nS_rect_02: 3 4 5', 'must be width and height')])
def test_what_cannot_be_used_names_the_file(tmp_path, text, words):
    path = written(tmp_path, 'some.yaml', text)
    with pytest.raises(CalibrationError, match=words) as raised:
        read_calibration(path)
    assert str(path) in str(raised.value) and '\n' not in str(raised.value)


def test_a_binary_file_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match='No such file'):
        read_calibration(tmp_path / 'missing.yaml')
    (tmp_path / 'picture.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(range(200, 256)))
    with pytest.raises(CalibrationError, match='is not a text file; give YAML of camera_'):
        read_calibration(tmp_path / 'picture.png')
