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
"""
KITTI depth completion: 16 bit PNG, meters = value / 256, 0 for unknown.

Two layouts are supported. The selection (val_selection_cropped, or the folder that holds it) has
image/, velodyne_raw/, groundtruth_depth/ and intrinsics/. The raw layout has train/ and val/ with
<drive>/proj_depth/{velodyne_raw,groundtruth}/image_0X/<number>.png, and recordings with
<drive>/image_0X/data/<number>.png and <date>/calib_cam_to_cam.txt in the same folder or in raw/.
"""
from pathlib import Path
from typing import List, NamedTuple

from steer_depth_ros.datasets.base import MeasuredFrame, MeasuredFrames, SENSOR
from steer_depth_ros.errors import CalibrationError, ConfigError, DatasetError
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.geometry.camera import Camera
from steer_depth_ros.recordings.frame_folder import read_depth, read_image

SCALE = 256.0
SELECTION = 'val_selection_cropped'
SPLITS = ('train', 'val')
CAMERAS = ('image_02', 'image_03')


class KittiFiles(NamedTuple):
    """The files of one frame; camera: 'image_02' or 'image_03'."""

    name: str
    image: Path
    sparse: Path
    truth: Path
    intrinsics: Path
    camera: str


class KittiFrames(MeasuredFrames):
    """
    KITTI depth completion; frames are described in `MeasuredFrames`.

    data_dir: folder in one of the two layouts. split: 'val' (the selection if there is one) or
    'train'. pattern: 'sensor' for all 64 beams, or a pattern that draws from them.
    Raise DatasetError if the folder, or a file when reading, is missing or corrupt.
    """

    def __init__(self, data_dir, split: str = 'val', pattern: str = SENSOR, seed: int = 0):
        super().__init__(pattern, seed)
        if split not in SPLITS:
            raise ConfigError(f"KITTI has no split '{split}', only {' and '.join(SPLITS)}")
        self.files = find_files(Path(data_dir), split)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> MeasuredFrame:
        """Read the files of one frame."""
        files = self.files[index]
        image = read_image(files.image)
        size = image.shape[:2]
        return MeasuredFrame(files.name, image, read_depth(files.truth, SCALE, size),
                             read_depth(files.sparse, SCALE, size), _camera(files, size))


def find_files(data_dir: Path, split: str) -> List[KittiFiles]:
    """Return the frames of either layout in order of name; raise DatasetError if none."""
    if not data_dir.is_dir():
        raise DatasetError(f'{data_dir} is not a folder; --data-dir must hold KITTI depth '
                           f'completion, {SELECTION} or train/ and val/')
    for folder in (data_dir, data_dir / SELECTION, data_dir / 'depth_selection' / SELECTION):
        if split == 'val' and (folder / 'velodyne_raw').is_dir():
            return _selection(folder)
    sparse = sorted((data_dir / split).glob('*/proj_depth/velodyne_raw/image_0[23]/*.png'))
    if not sparse:
        raise DatasetError(f'{data_dir} holds neither {SELECTION}/velodyne_raw nor '
                           f'{split}/<drive>/proj_depth/velodyne_raw; unpack the data set there')
    return [_raw(data_dir, path) for path in sparse]


def _camera(files: KittiFiles, size) -> Camera:
    """Read the intrinsics of the rectified image; raise DatasetError naming a file without."""
    try:
        found = read_calibration(files.intrinsics, files.camera)
    except CalibrationError as error:
        raise DatasetError(f'{error}; it holds the intrinsics of {files.image}') from None
    return Camera.from_calibration(size[1], size[0], found.k, found.d, found.distortion_model)


def _selection(folder) -> List[KittiFiles]:
    found = []
    for sparse in sorted((folder / 'velodyne_raw').glob('*.png')):
        image = sparse.name.replace('velodyne_raw', 'image')
        truth = sparse.name.replace('velodyne_raw', 'groundtruth_depth')
        found.append(KittiFiles(sparse.stem, folder / 'image' / image, sparse,
                                folder / 'groundtruth_depth' / truth,
                                folder / 'intrinsics' / Path(image).with_suffix('.txt').name,
                                sparse.stem[-len(CAMERAS[0]):]))
    if not found:
        raise DatasetError(f'{folder / "velodyne_raw"} holds no .png; unpack the selection again')
    return found


def _raw(data_dir, sparse) -> KittiFiles:
    camera, drive = sparse.parent.name, sparse.parents[3].name
    truth = sparse.parents[2] / 'groundtruth' / camera / sparse.name
    date = drive[:len('2011_09_26')]
    roots = (data_dir, data_dir / 'raw')
    root = next((r for r in roots if (r / date).is_dir()), data_dir)
    return KittiFiles(f'{drive}/{camera}/{sparse.stem}',
                      root / date / drive / camera / 'data' / sparse.name, sparse, truth,
                      root / date / 'calib_cam_to_cam.txt', camera)
