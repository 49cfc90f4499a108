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
"""Many recordings: the same results whoever makes them, none twice, none half, none lost."""
from functools import partial
import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
from sample_recordings import (
    CAMERA,
    CAMERA_FROM_LIDAR,
    cloud_bag,
    cloud_frames,
    IMAGE_TOPIC,
    INFO_TOPIC,
    PlaneCompleter,
    POINTS_TOPIC,
)

from steer_depth_ros.cli import main
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.errors import BagError
from steer_depth_ros.geometry.transforms import quaternion_from
from steer_depth_ros.recordings import bag, many
from steer_depth_ros.recordings.bag_tools import complete_bag
from steer_depth_ros.recordings.many import complete_many, find_recordings, targets
from steer_depth_ros.recordings.parts import divide
from steer_depth_ros.ros import messages

COUNT = 6
PRESET = {'preset': 'steering', 'device': 'cpu'}


@pytest.fixture(scope='module')
def drives(tmp_path_factory):
    folder = tmp_path_factory.mktemp('drives')
    for index in range(COUNT):
        cloud_bag(folder / f'drive{index}{".mcap" if index % 2 else ""}', 1 + index % 3)
    return folder


def content(path):
    with bag.BagReader(path) as recording:
        return [(r.topic, r.log_ns, bytes(r.raw)) for r in recording.messages()]


def test_workers_give_what_one_process_gives_even_when_one_of_them_is_killed(drives, tmp_path):
    jobs = targets(find_recordings([str(drives)]), tmp_path / 'out')
    killed = []

    def kill_one(share):
        if share and not killed:
            worker = multiprocessing.active_children()[0]
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    outcomes = complete_many(jobs, partial(DepthCompleter, **PRESET), 2, progress=kill_one)
    assert killed and not [o.error for o in outcomes if o.error]
    assert [o.source for o in outcomes] == list(jobs) and len(jobs) == COUNT
    completer = DepthCompleter(**PRESET)
    for source, target in jobs.items():
        complete_bag(source, tmp_path / 'alone.mcap', completer, overwrite=True)
        assert content(target) == content(tmp_path / 'alone.mcap')
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == sorted(
        target.name for target in jobs.values())  # nothing half-written beside them


def test_a_ray_cluster_of_two_nodes_gives_the_same_though_a_worker_is_killed(drives, tmp_path):
    ray = pytest.importorskip('ray', reason='ray is not installed; pip install .[ray]')
    psutil = pytest.importorskip('psutil', reason='psutil is not installed')
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})
    cluster.add_node(num_cpus=1)
    jobs = targets(find_recordings([str(drives)]), tmp_path / 'out')
    killed = []

    def kill_one(share):
        for process in [] if killed or not share else psutil.Process().children(recursive=True):
            if ' '.join(process.cmdline()).startswith('ray::complete'):
                process.kill()
                killed.append(process.pid)
                break

    try:
        outcomes = complete_many(jobs, partial(DepthCompleter, **PRESET), 1, progress=kill_one,
                                 ray=cluster.address)
        nodes = len(ray.nodes())
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and nodes == 2 and not [o.error for o in outcomes if o.error]
    completer = DepthCompleter(**PRESET)
    for source, target in jobs.items():
        complete_bag(source, tmp_path / 'alone.mcap', completer, overwrite=True)
        assert content(target) == content(tmp_path / 'alone.mcap')


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Give a recording of two files, a pair across the seam, what is latched in the first."""
    monkeypatch.setattr(many, 'PART', 2)
    frames = [recorded.frame for recorded in cloud_frames(9)]
    frames[2].points[:, 0] *= -1  # behind the camera: none in the image
    split = tmp_path / 'split'
    split.mkdir()
    seam = frames[4].stamp_ns
    for number in (0, 1):
        with bag.BagWriter(split / f'split_{number}.mcap') as writer:
            for topic, kind in ((IMAGE_TOPIC, bag.IMAGE), (POINTS_TOPIC, bag.POINT_CLOUD)):
                writer.add_topic(topic, kind)
            if number == 0:
                writer.add_topic('/tf_static', bag.TF_MESSAGE)
                writer.write('/tf_static', 1, bag.transform_message(
                    'camera', 'lidar', 1, (0, -0.2, 0), quaternion_from(CAMERA_FROM_LIDAR)))
                writer.add_topic(INFO_TOPIC, bag.CAMERA_INFO)
                writer.write(INFO_TOPIC, 1, bag.build(
                    bag.CAMERA_INFO, 1, 'camera', messages.camera_info_fields(CAMERA)))
            for i, frame in enumerate(frames):
                cloud = np.zeros((len(frame.points), 4), np.float32)
                cloud[:, :3] = frame.points
                image = messages.image_fields(frame.image, 'rgb8')
                if i == 6:
                    image['step'] = 1  # cannot be decoded
                stamp = frame.stamp_ns
                if (stamp > seam) == number:
                    writer.write(POINTS_TOPIC, stamp, bag.build(
                        bag.POINT_CLOUD, stamp, 'lidar', messages.cloud_fields(cloud)))
                if (stamp >= seam) == number:
                    writer.write(IMAGE_TOPIC, stamp + 1, bag.build(
                        bag.IMAGE, stamp + 1, 'camera', image))
    return split


@pytest.mark.parametrize('values', [{}, {'accumulate_s': 0.35, 'cloud_rate_hz': 4.0}])
def test_parts_of_a_recording_give_what_one_process_gives(split, tmp_path, values):
    target, killed = tmp_path / 'out' / 'split.mcap', []
    options = {'values': values, 'keep_inputs': True}

    def kill_one(share):
        if share and not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    [outcome] = complete_many({split: target}, PlaneCompleter, 2, progress=kill_one, **options)
    alone = complete_bag(split, tmp_path / 'alone.mcap', PlaneCompleter(), **options)
    assert killed and not outcome.error and outcome.figures == alone
    assert (alone['frames'], alone['dropped']) == (
        (7, {'no_points_in_image': 1, 'MessageError': 1}) if not values else
        (8, {'MessageError': 1}))
    assert content(target) == content(tmp_path / 'alone.mcap')
    assert list(target.parent.iterdir()) == [target]  # the parts are gone


def test_parts_on_a_ray_cluster_give_the_same(split, tmp_path):
    ray = pytest.importorskip('ray', reason='ray is not installed; pip install .[ray]')
    ray.init(num_cpus=2, log_to_driver=False)
    try:
        address = ray.get_runtime_context().gcs_address
        # Its workers do not have the folder of the tests, where the stand-in is.
        [failed] = complete_many({split: tmp_path / 'out.mcap'}, PlaneCompleter, 1, ray=address)
        [outcome] = complete_many({split: tmp_path / 'out.mcap'},
                                  partial(DepthCompleter, **PRESET), 1, ray=address)
    finally:
        ray.shutdown()
    alone = complete_bag(split, tmp_path / 'alone.mcap', DepthCompleter(**PRESET))
    assert 'a worker of the cluster failed' in failed.error
    assert "No module named 'sample_recordings'" in failed.error
    assert not outcome.error and outcome.figures == alone
    assert content(tmp_path / 'out.mcap') == content(tmp_path / 'alone.mcap')


def test_a_recording_is_divided_only_where_no_frame_tells_the_next(split, tmp_path):
    parts = divide(split, 2)
    assert [len(part.jobs) for part in parts] == [2, 2, 2, 2, 1]
    assert divide(split, 9) == []
    deep = tmp_path / 'deep.mcap'
    with bag.BagReader(split) as recording, bag.BagWriter(deep) as writer:
        for topic, kind in recording.topics.items():
            writer.add_topic(topic, kind)
        for record in recording.messages():
            message = record.raw
            if record.topic == IMAGE_TOPIC:
                pixels = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
                message = bag.build(bag.IMAGE, bag.cdr_stamp_ns(message), 'camera',
                                    messages.image_fields(pixels, 'mono16'))
            writer.write(record.topic, record.log_ns, message)
    assert divide(deep, 2) == []


def test_what_is_done_stays_and_what_fails_is_listed(drives, tmp_path, capsys):
    broken = tmp_path / 'broken.mcap'
    broken.write_bytes((drives / 'drive1.mcap').read_bytes()[:2000])
    argv = ['bag', str(drives / 'drive[01]*'), str(broken), '--out', str(tmp_path / 'out'),
            '--preset', 'steering', '--json', str(tmp_path / 'f.json')]
    assert main(argv) == 1
    screen = capsys.readouterr().out
    assert '2 recordings completed' in screen and f'{broken}: the recording' in screen
    assert not (tmp_path / 'out' / 'broken.mcap').exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').iterdir()}
    assert main(argv) == 1
    assert '0 recordings completed (0 frames), 2 were there, 1 failed' in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').iterdir()} == before
    figures = json.loads((tmp_path / 'f.json').read_text())
    assert [f['skipped'] for f in figures] == [True, True, False]


def test_recordings_are_found_once_and_names_that_clash_are_refused(drives, tmp_path):
    found = find_recordings([str(drives), str(drives / '*.mcap')])
    assert [path.name for path in found] == [
        f'drive{i}{".mcap" if i % 2 else ""}' for i in range(COUNT)]
    with pytest.raises(BagError, match='leads to no recording'):
        find_recordings([str(tmp_path / '*.mcap')])
    (tmp_path / 'drive0').mkdir()
    with pytest.raises(BagError, match='would both become'):
        targets([drives / 'drive0', tmp_path / 'drive0'], tmp_path)


def test_wrong_usage_is_told(drives, capsys):
    assert main(['bag', str(drives / 'drive0')]) == 2
    assert '--out DIR' in capsys.readouterr().err
    assert main(['bag', str(drives), '--out', 'out', '--workers', '0']) == 2
    assert '--workers must be 1' in capsys.readouterr().err
    assert main(['bag', str(drives / 'drive0'), 'out.mcap', '--workers', '2']) == 2
    assert 'with --out DIR' in capsys.readouterr().err
    assert main(['bag', str(drives / 'drive1.mcap'), '--out', str(drives), '--overwrite']) == 2
    assert 'would replace the recording' in capsys.readouterr().err


def test_after_an_interrupt_nothing_more_is_begun(drives, tmp_path):
    jobs = targets(find_recordings([str(drives)]), tmp_path / 'out')

    def interrupt(share):
        if share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete_many(jobs, partial(DepthCompleter, **PRESET), 1, progress=interrupt)
    assert len(list((tmp_path / 'out').glob('*.mcap'))) < COUNT


def test_without_ray_it_says_how_to_install_it(drives, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert main(['bag', str(drives), '--out', str(tmp_path), '--ray', 'auto']) == 2
    assert 'pip install "steer_depth_ros[ray]"' in capsys.readouterr().err
