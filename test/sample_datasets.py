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
"""Small data sets in the layouts of NYUv2, KITTI and folders of frames."""
import json

import cv2
import h5py
import numpy as np

from steer_depth_ros.datasets import kitti

SIZE = (48, 64)


def write_nyu(folder, count=3, boxes=0):
    """
    Write a set as sparse-to-dense packs it: a slanted wall behind random colors.

    boxes: gray ones stand in front of it.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        path = folder / 'val' / 'official' / f'{i:05d}.h5'
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, 'w') as file:
            image = rng.integers(0, 256, (3, 480, 640), dtype=np.uint8)
            depth = (2 + i + np.arange(640) / 640 * np.ones((480, 1))).astype(np.float32)
            for box in range(boxes):
                y, x = rng.integers(0, 400), rng.integers(0, 560)
                image[:, y:y + 80, x:x + 80], depth[y:y + 80, x:x + 80] = 10 * box, 1 + 0.05 * box
            file['rgb'], file['depth'] = image, depth
        rows.append(str(path.relative_to(folder)))
    (folder / 'nyudepth_hdf5_val.csv').write_text('\n'.join(rows) + '\n')
    return folder


def kitti_frame(i):
    rng = np.random.default_rng(i)
    truth = (rng.uniform(5, 60, SIZE) * 256).astype(np.uint16)
    truth[:10] = 0
    sparse = np.where(rng.random(SIZE) < 0.3, truth, 0).astype(np.uint16)
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), sparse, truth


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_kitti_selection(folder, count=2):
    """Write val_selection_cropped."""
    for i in range(count):
        name = f'2011_09_26_drive_0002_sync_{{}}_{i:010d}_image_0{2 + i % 2}'
        image, sparse, truth = kitti_frame(i)
        write(folder / 'image' / f'{name.format("image")}.png', image)
        write(folder / 'velodyne_raw' / f'{name.format("velodyne_raw")}.png', sparse)
        write(folder / 'groundtruth_depth' / f'{name.format("groundtruth_depth")}.png', truth)
        calibration = folder / 'intrinsics' / f'{name.format("image")}.txt'
        calibration.parent.mkdir(exist_ok=True)
        calibration.write_text('721.5 0.0 30.5 0.0 720.5 20.5 0.0 0.0 1.0')
    return folder


def write_kitti_raw(folder, split='train'):
    """Write one drive of the raw layout."""
    drive = '2011_09_26_drive_0001_sync'
    for camera in kitti.CAMERAS:
        image, sparse, truth = kitti_frame(7)
        annotated = folder / split / drive / 'proj_depth'
        write(annotated / 'velodyne_raw' / camera / '0000000005.png', sparse)
        write(annotated / 'groundtruth' / camera / '0000000005.png', truth)
        write(folder / 'raw' / '2011_09_26' / drive / camera / 'data' / '0000000005.png', image)
    (folder / 'raw' / '2011_09_26' / 'calib_cam_to_cam.txt').write_text(
        'calib_time: 09-Jan-2012\nS_rect_02: 64 48\n'
        'P_rect_02: 700 0 31 0 0 701 21 0 0 0 1 0\nP_rect_03: 710 0 32 0 0 711 22 0 0 0 1 0\n')
    return folder


def write_frame(folder, **arrays):
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / 'rgb.png'), np.full((60, 80, 3), 90, np.uint8))
    for name, meters in arrays.items():
        cv2.imwrite(str(folder / f'{name}.png'), (meters * 1000).astype(np.uint16))
    (folder / 'meta.json').write_text(json.dumps(
        {'fx': 70, 'fy': 70, 'cx': 39.5, 'cy': 29.5, 'depth_scale': 1000}))
