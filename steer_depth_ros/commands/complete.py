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
"""Complete a single image with its depth file or point cloud."""
from pathlib import Path

import cv2
import numpy as np

from steer_depth_ros.commands import options
from steer_depth_ros.errors import ConfigError, FrameError
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.geometry.projection import project_points, sparse_from_depth_image
from steer_depth_ros.recordings.cloud_files import ENDINGS, read_cloud
from steer_depth_ros.recordings.image_files import (
    COUNTS_PER_METRE,
    DEPTHS,
    PICTURES,
    read_depth,
    read_image,
)
from steer_depth_ros.ros.messages import camera_from_info
from steer_depth_ros.viz import preview

LARGEST_16_BIT = 65535


def add_arguments(parser):
    parser.add_argument('--image', required=True, metavar='FILE',
                        help=f'image ({", ".join(PICTURES)})')
    parser.add_argument('--depth', metavar='FILE', help='sparse depth registered to the image, of '
                        f'its resolution or a lower one ({", ".join(DEPTHS)})')
    parser.add_argument('--depth-scale', type=float, metavar='S', help='meters = value / S, also '
                        f'of --out as .png; {COUNTS_PER_METRE:g} for whole numbers and 1 for '
                        'floats unless given')
    parser.add_argument('--points', metavar='FILE',
                        help=f'instead of --depth, a cloud ({", ".join(ENDINGS)})')
    parser.add_argument('--point-columns', type=int, metavar='N', help='float32 a point of a '
                        '.bin; 4, 5 or 6 is told from its values unless given')
    options.add_calibration(parser, 'of the camera, with the pose of the LiDAR, for --points')
    parser.add_argument('--out', required=True, metavar='FILE', help='completed depth: 16 bit '
                        '.png of the same scale, or meters as .npy or .tiff')
    parser.add_argument('--confidence', metavar='FILE', help='confidence: .png (0 to 65535), '
                        '.npy or .tiff (0 to 1)')
    parser.add_argument('--preview', metavar='FILE', help='a colored picture of the depth')
    parser.add_argument('--json', metavar='FILE', help='write the figures to a file')
    options.add_completer(parser)


def run(args):
    for path in filter(None, (args.out, args.confidence)):
        _array_ending(path)
    if args.preview and not cv2.haveImageWriter(args.preview):
        raise ConfigError(f'{args.preview} must be a picture; end it in .png')
    image = read_image(args.image)
    samples = _samples(args, image.shape[:2])
    if not len(samples):
        raise FrameError(f'{args.depth or args.points} has no depth within the image; check the '
                         'scale or the calibration')
    result = options.make_completer(args).complete(image, samples.uv, samples.depth)
    if not np.isfinite(result.depth).any():
        raise FrameError(f'nothing was completed from {len(samples)} samples of '
                         f'{samples.depth.min():.3g} to {samples.depth.max():.3g} m; check the '
                         'scale')
    write_array(args.out, result.depth, args.depth_scale or COUNTS_PER_METRE)
    if args.confidence:
        write_array(args.confidence, result.confidence, LARGEST_16_BIT)
    if args.preview:
        near, far = preview.depth_range(samples.depth, result.depth)
        preview.write_picture(args.preview, preview.color_depth(result.depth, near, far))
    figures = {'samples': len(samples),
               'completed': float(np.isfinite(result.depth).mean()),
               'mean_confidence': float(result.confidence.mean())}
    print(f'{args.out}: {figures["samples"]} samples in, {100 * figures["completed"]:.1f} % of '
          f'the pixels completed, mean confidence {figures["mean_confidence"]:.2f}')
    options.write_json(args.json, figures)


def write_array(path, values, scale):
    """
    Write float32 (H, W) values: times `scale` into a 16 bit .png, as they are into .npy or .tiff.

    In a .png 0 stands for unknown and for what does not fit into 16 bit. Raise ConfigError for
    another ending, FrameError when the file cannot be written.
    """
    path, ending = Path(path), _array_ending(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == '.npy':
            np.save(path, values)
            return
        if ending == '.png':
            scaled = np.round(np.nan_to_num(values * np.float32(scale), nan=0.0))
            values = np.where(scaled <= LARGEST_16_BIT, scaled, 0).astype(np.uint16)
        written = cv2.imwrite(str(path), values)
    except (OSError, cv2.error):
        written = False
    if not written:
        raise FrameError(f'cannot write {path}; choose another place')


def _array_ending(path):
    """Return the ending of a path that `write_array` can write; ConfigError for another."""
    ending = Path(path).suffix.lower()
    if ending not in ('.png', '.npy', '.tif', '.tiff'):
        raise ConfigError(f'{path} must end in .png, .npy or .tiff')
    return ending


def _samples(args, size):
    if (args.depth is None) == (args.points is None):
        raise ConfigError('give either --depth or --points')
    if args.depth:
        if args.depth_scale is not None and not args.depth_scale > 0:
            raise ConfigError(f'--depth-scale must be positive, not {args.depth_scale}')
        depth = read_depth(args.depth, args.depth_scale, size, args.depth_scale, other_sizes=True)
        return sparse_from_depth_image(depth, size=size)
    if not args.calibration:
        raise ConfigError('--points needs --calibration, a file with the intrinsics and the pose '
                          'of the LiDAR (JSON: fx, fy, cx, cy, T_cam_lidar; or KITTI)')
    calibration = read_calibration(args.calibration, args.camera)
    if calibration.camera_from_points is None:
        raise ConfigError(f'{args.calibration} does not tell where the LiDAR is; add T_cam_lidar '
                          'to a JSON file, or calib_velo_to_cam.txt beside that of KITTI')
    height, width = size
    return project_points(read_cloud(args.points, args.point_columns),
                          camera_from_info(calibration.of_size(width, height), False,
                                           (width, height)), calibration.camera_from_points)
