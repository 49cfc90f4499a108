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
"""Turn a folder of frames into a rosbag2."""
from tqdm import tqdm

from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.recordings.frame_folder import find_frames, read_frames


def add_arguments(parser):
    parser.add_argument('folder', metavar='DIR', help='a frame folder (rgb.png, lidar.bin or '
                        'depth.png, meta.json), or a folder of them')
    parser.add_argument('target', metavar='OUT', help='.mcap, .db3, or a folder with sqlite3')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT')


def run(args):
    frames = tqdm(read_frames(args.folder), total=len(find_frames(args.folder)), unit=' frames')
    count = frames_to_bag(frames, args.target, args.overwrite)
    print(f'{args.target}: {count} frames')
