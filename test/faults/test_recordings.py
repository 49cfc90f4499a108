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
"""Recordings on a disk that fills up, and recordings cut off at any byte."""
from collections import namedtuple
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sample_recordings import cloud_bag

from steer_depth_ros.errors import BagError, DiskFullError
from steer_depth_ros.recordings import bag
from steer_depth_ros.ros import messages

NAMES = ('a.mcap', 'a.db3', 'folder')
TOPIC = '/points'
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=12m tmpfs "$1"
"$2" "$3" "$1/$4" || status=$?
cp -r "$1/$4" "$5"
exit $status
"""
FILL = """
import sys
sys.path[:0] = {paths!r}
from faults.test_recordings import fill
from steer_depth_ros.errors import DiskFullError
try:
    fill(sys.argv[1])
except DiskFullError as error:
    print(error)
    sys.exit(3)
"""


def cloud(number):
    points = np.zeros((2000, 4), np.float32)
    points[:, 0] = number
    return bag.build(bag.POINT_CLOUD, number + 1, 'lidar', messages.cloud_fields(points))


def fill(path, count=1000):
    """Write clouds, each with its number in it, until the disk is full."""
    with bag.BagWriter(path) as writer:
        writer.add_topic(TOPIC, bag.POINT_CLOUD)
        for number in range(count):
            writer.write(TOPIC, number + 1, cloud(number))


def numbers(path):
    """Read what was recorded; give the number in each cloud."""
    with bag.BagReader(path) as recording:
        clouds = [recording.decode(record) for record in recording.messages(TOPIC)]
    return [int(messages.cloud_to_xyz(msg)[0, 0]) for msg in clouds]


@pytest.mark.parametrize('name', NAMES)
def test_a_full_disk_ends_the_recording_which_stays_readable(tmp_path, name):
    if shutil.which('unshare') is None or subprocess.run(
            ['unshare', '-rm', 'mount', '-t', 'tmpfs', 'tmpfs', str(tmp_path)],
            capture_output=True).returncode:
        pytest.skip('this user may not mount a small file system of its own')
    disk, script = tmp_path / 'disk', tmp_path / 'fill.py'
    disk.mkdir()
    here = Path(__file__).resolve()
    script.write_text(FILL.format(paths=[str(here.parents[1]), str(here.parents[2])]))
    done = subprocess.run(
        ['unshare', '-rm', 'sh', '-c', ON_A_SMALL_DISK, 'sh', str(disk), sys.executable,
         str(script), name, str(tmp_path / name)], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert 'the disk of' in done.stdout and 'is full' in done.stdout
    found = numbers(tmp_path / name)
    assert len(found) > 100 and found == list(range(len(found)))


def test_nothing_else_is_left_behind_on_a_full_disk(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    room = [10 * bag.CHUNK_BYTES] * 20 + [bag.CHUNK_BYTES]
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(0, 0, room.pop(0)))
    with pytest.raises(DiskFullError, match='keeps what it has, free some space'):
        fill(tmp_path / 'a.mcap')
    assert [path.name for path in tmp_path.iterdir()] == ['a.mcap']
    assert numbers(tmp_path / 'a.mcap') == list(range(20))


def test_a_disk_without_room_to_begin_with_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.posix_fallocate', full)
    with pytest.raises(BagError, match='cannot write .*: No space left on device'):
        bag.BagWriter(tmp_path / 'a.mcap')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', NAMES[:2])  # the file in a folder is a .db3, too
def test_a_recording_cut_off_at_any_byte_gives_its_beginning_or_an_error(tmp_path, name):
    path = cloud_bag(tmp_path / name, 2)
    with bag.BagReader(path) as recording:
        whole = list(recording.messages())
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    ends = {*range(64), *range(len(data) - 300, len(data), 3),
            *rng.integers(0, len(data), 150).tolist()}
    refused = 0
    for end in sorted(ends, reverse=True):
        path.write_bytes(data[:end])
        got = []
        try:
            with bag.BagReader(path) as recording:
                got.extend(recording.messages())
        except BagError:
            refused += 1
        assert got == whole[:len(got)], f'cut at {end} of {len(data)}'
    assert refused > 0.9 * len(ends)
