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
"""The bag tool against what the parameters of the node promise."""
import json

import cv2
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
    SIZE,
    wall,
    write_bag,
)

from steer_depth_ros.cli import main
from steer_depth_ros.errors import BagError, CalibrationError, ConfigError
from steer_depth_ros.geometry.calibration_file import Calibration
from steer_depth_ros.geometry.transforms import inverse, quaternion_from
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import choose_topics, node_values, run_pipeline
from steer_depth_ros.recordings.bag_tools import complete_bag, OUTPUTS
from steer_depth_ros.ros import messages

MS = 10 ** 6
START = 1_700_000_000_000 * MS
PERIOD = 100 * MS
JPEG = cv2.imencode('.jpg', np.full((*SIZE, 3), 99, np.uint8))[1].tobytes()


def record(path, *entries):
    """Write (topic, type, log_ns, message) in the order of time."""
    with bag.BagWriter(path) as writer:
        for topic, kind in {(topic, kind): None for topic, kind, _, _ in entries}:
            writer.add_topic(topic, kind)
        for topic, _, log_ns, message in sorted(entries, key=lambda entry: entry[2]):
            writer.write(topic, log_ns, message)
    return path


def cloud(stamp, points, log=None, topic=POINTS_TOPIC, frame='lidar'):
    flat = np.zeros((len(points), 4), np.float32)
    flat[:, :3] = points
    return (topic, bag.POINT_CLOUD, log or stamp,
            bag.build(bag.POINT_CLOUD, stamp, frame, messages.cloud_fields(flat)))


def camera(stamp, data=JPEG):
    """Give an image, compressed, and its camera_info."""
    image = bag.TYPES.types[bag.COMPRESSED_IMAGE](
        bag.header(stamp, 'camera'), 'jpeg', np.frombuffer(data, np.uint8))
    info = bag.build(bag.CAMERA_INFO, stamp, 'camera', messages.camera_info_fields(CAMERA))
    return [(INFO_TOPIC, bag.CAMERA_INFO, stamp, info),
            ('/camera/image/compressed', bag.COMPRESSED_IMAGE, stamp, image)]


def transform(stamp, xyz=CAMERA_FROM_LIDAR[:3, 3], topic='/tf', child='lidar', rotation=None):
    rotation = quaternion_from(CAMERA_FROM_LIDAR) if rotation is None else rotation
    message = bag.transform_message('camera', child, stamp, xyz, rotation)
    return topic, bag.TF_MESSAGE, stamp, message


def static():
    return transform(START, topic='/tf_static')


def results(path, **given):
    with bag.BagReader(path) as recording:
        topics = choose_topics(recording, given=given)
        return list(run_pipeline(recording, topics, node_values(recording, topics, **given)))


def complete(source, target, **options):
    return complete_bag(source, target, PlaneCompleter(), **options)


def test_clouds_are_accumulated(tmp_path):
    parts = np.array_split(wall(), 6)
    path = record(tmp_path / 'a.mcap', static(), *(
        entry for i, part in enumerate(parts) for entry in (
            cloud(START + i * PERIOD, part), *camera(START + i * PERIOD))))
    assert [len(r.frame.points) for r in results(path)] == [len(part) for part in parts]
    found = results(path, accumulate_s=0.25)
    assert len(found[-1].frame.points) == sum(map(len, parts[-3:]))
    assert len(found[-1].sparse) > 2 * len(results(path)[-1].sparse)


def test_transforms_are_looked_up_at_the_corrected_stamp(tmp_path):
    """The camera comes nearer at 2 m/s; the LiDAR's clock is 0.4 s behind."""
    behind, entries = 400 * MS, []
    for i in range(-10, 20):
        pose = inverse(CAMERA_FROM_LIDAR)
        pose[0, 3] += 2.0 * i * 0.1
        message = bag.transform_message('odom', 'camera', START + i * PERIOD, pose[:3, 3],
                                        quaternion_from(pose))
        entries.append(('/tf', bag.TF_MESSAGE, START + i * PERIOD, message))
    for i in range(6):
        stamp = START + i * PERIOD
        entries += [cloud(stamp - behind, wall(8.0 - 0.2 * i), stamp), *camera(stamp)]
    path = record(tmp_path / 'a.mcap', static(), *entries)
    found = results(path, fixed_frame='odom', time_offset_s=0.4)
    assert len(found) == 6
    for i, result in enumerate(found):
        np.testing.assert_allclose(result.sparse.depth, 8.0 - 0.2 * i, atol=1e-4)


def test_clocks_of_another_origin_are_measured_and_mended(tmp_path):
    boot = 4_280_910 * MS
    path = record(tmp_path / 'a.mcap', static(), *(
        entry for i in range(8) for entry in (
            cloud(boot + i * PERIOD, wall(), START + i * PERIOD + 5 * MS),
            *camera(START + i * PERIOD))))
    with pytest.raises(BagError, match=r'set time_offset_s to \d+\.\d+') as raised:
        results(path)
    offset = float(str(raised.value).split('set time_offset_s to ')[1].split(',')[0])
    assert abs(offset - (START - boot) / 1e9) < 0.01
    assert len(results(path, time_offset_s=offset)) == 8


def test_two_lidars_are_used_together(tmp_path):
    halves = np.array_split(wall(), 2)
    path = record(
        tmp_path / 'a.mcap', static(),
        transform(START, topic='/tf_static', child='right'), *(
            entry for i in range(4) for entry in (
                cloud(START + i * PERIOD, halves[0]),
                cloud(START + i * PERIOD + 3 * MS, halves[1], topic='/right', frame='right'),
                *camera(START + i * PERIOD + 10 * MS))))
    with pytest.raises(BagError, match=r'points_topics=\[/lidar/points,/right\]'):
        results(path)
    found = results(path, points_topics=[POINTS_TOPIC, '/right'])
    assert [len(r.frame.points) for r in found] == [len(wall())] * 4


def test_the_image_may_be_scaled_by_the_driver_or_by_the_parameter(tmp_path):
    for name, size in (('larger', (128, 96)), ('smaller', (32, 24))):
        path = write_bag(tmp_path / f'{name}.mcap', camera_info=messages.camera_info_fields(
            CAMERA.scaled(*size)))
        (result,) = results(path)
        assert (result.frame.camera.width, result.frame.camera.height) == (64, 48)
        np.testing.assert_allclose(result.frame.camera.fx, CAMERA.fx)
    complete(cloud_bag(tmp_path / 'a.mcap'), tmp_path / 'o.mcap', values={'image_scale': 0.5})
    with bag.BagReader(tmp_path / 'o.mcap') as recording:
        for role in ('depth', 'camera_info'):
            assert recording.first(OUTPUTS[role][0]).width == 32


def test_the_rate_of_the_cloud_is_limited(tmp_path):
    complete(cloud_bag(tmp_path / 'a.mcap', 10), tmp_path / 'o.mcap',
             values={'cloud_rate_hz': 5.0})
    with bag.BagReader(tmp_path / 'o.mcap') as recording:
        assert recording.counts[OUTPUTS['cloud'][0]] == 5
        assert recording.counts[OUTPUTS['depth'][0]] == 10


BAD = {'damaged picture': (camera(START + 3 * PERIOD, JPEG[:40]), None, 'MessageError'),
       'cloud without points inside': (None, cloud(START + 3 * PERIOD, -wall()),
                                       'no_points_in_image'),
       'cloud in an unknown frame': (None, cloud(START + 3 * PERIOD, wall(), frame='moon'),
                                     'TransformError')}


@pytest.mark.parametrize('name', BAD)
def test_one_bad_frame_is_dropped_by_its_cause(tmp_path, name):
    picture, points, cause = BAD[name]
    entries = [static()]
    for i in range(6):
        entries += camera(START + i * PERIOD) if i != 3 or not picture else picture
        entries.append(cloud(START + i * PERIOD, wall()) if i != 3 or not points else points)
    told = []
    figures = complete(record(tmp_path / 'a.mcap', *entries), tmp_path / 'o.mcap',
                       tell=told.append)
    assert figures == {'frames': 5, 'images': 6, 'dropped': {cause: 1}}
    assert any(cause in sentence for sentence in told)


def test_transforms_that_start_late(tmp_path):
    entries = [transform(START + 150 * MS + i * 20 * MS) for i in range(40)]
    entries += [entry for i in range(8) for entry in (
        cloud(START + i * PERIOD, wall()), *camera(START + i * PERIOD))]
    figures = complete(record(tmp_path / 'a.mcap', *entries), tmp_path / 'o.mcap')
    assert figures['frames'] == 6 and figures['dropped'] == {'TransformError': 2}


@pytest.mark.parametrize('bad', [
    transform(START, (np.nan,) * 3, child='wheel', rotation=(np.nan,) * 4),
    transform(START, child='gripper', rotation=(0, 0, 0, 0)), transform(START, child='camera'),
    transform(START, child='')])
def test_an_invalid_transform_is_ignored_with_a_warning(tmp_path, bad):
    told = []
    path = record(tmp_path / 'a.mcap', static(), bad, cloud(START, wall()), *camera(START))
    assert complete(path, tmp_path / 'o.mcap', tell=told.append)['frames'] == 1
    assert len(told) == 1 and told[0].startswith('ignored the transforms of')


def test_a_run_that_completes_nothing_is_an_error(tmp_path, capsys):
    path = record(tmp_path / 'a.mcap', static(), *(
        entry for i in range(3) for entry in (
            cloud(START + i * PERIOD, -wall()), *camera(START + i * PERIOD))))
    assert main(['bag', str(path), str(tmp_path / 'o.mcap'), '--preset', 'steering']) == 2
    assert 'no measured point lies in the image' in capsys.readouterr().err
    assert not (tmp_path / 'o.mcap').exists()


def test_several_causes_are_all_named(tmp_path):
    path = record(tmp_path / 'a.mcap', static(), cloud(START, -wall()), *camera(START),
                  cloud(START + PERIOD, wall()), *camera(START + PERIOD, b'no picture'))
    with pytest.raises(BagError, match='could be completed: .*MessageError.*no_points_in_image|'
                                       'could be completed: .*no_points_in_image.*MessageError'):
        complete(path, tmp_path / 'o.mcap')


def test_the_completed_recording_keeps_what_a_viewer_needs(tmp_path):
    source = cloud_bag(tmp_path / 'a.mcap')
    assert main(['bag', str(source), str(tmp_path / 'o.mcap'), '--preset', 'steering']) == 0
    assert main(['bag', str(source), str(tmp_path / 'p.mcap'), '--preset', 'steering',
                 '--outputs-only']) == 0
    outputs = {topic for topic, _ in OUTPUTS.values()}
    with bag.BagReader(source) as before, bag.BagReader(tmp_path / 'o.mcap') as after:
        assert {*after.topics} == outputs | {IMAGE_TOPIC, INFO_TOPIC, '/tf_static'}
        for topic in (IMAGE_TOPIC, INFO_TOPIC, '/tf_static'):
            assert list(after.messages(topic)) == list(before.messages(topic))
        assert after.qos['/tf_static'] == [bag.LATCHED]
        assert after.qos[OUTPUTS['depth'][0]] == [bag.RELIABLE]
    with bag.BagReader(tmp_path / 'p.mcap') as after:
        assert {*after.topics} == outputs


def test_a_player_shows_outputs_with_their_image(tmp_path):
    """Stamps of a simulation, recorded by the wall clock."""
    path = record(tmp_path / 'a.mcap', static(), *(
        (topic, kind, START + log_ns, message) for i in range(1, 4)
        for topic, kind, log_ns, message in (cloud(i * PERIOD, wall()), *camera(i * PERIOD))))
    complete(path, tmp_path / 'o.mcap')
    with bag.BagReader(tmp_path / 'o.mcap') as recording:
        depths = list(recording.messages(OUTPUTS['depth'][0]))
    assert [r.log_ns for r in depths] == [START + i * PERIOD for i in range(1, 4)]


def test_a_calibration_file_instead_of_camera_info(tmp_path):
    source = write_bag(tmp_path / 'a.mcap', camera_info=None, tf=False)
    with pytest.raises(BagError, match='no topic for camera_info.*--calibration FILE'):
        complete(source, tmp_path / 'o.mcap')
    (tmp_path / 'c.json').write_text(json.dumps({
        'fx': CAMERA.fx, 'fy': CAMERA.fy, 'cx': CAMERA.cx, 'cy': CAMERA.cy,
        'T_cam_lidar': CAMERA_FROM_LIDAR.ravel().tolist()}))
    options = ['--preset', 'steering', '--overwrite']
    for given in (['--calibration', str(tmp_path / 'c.json')],
                  ['-p', f'calibration_file:={tmp_path / "c.json"}']):
        assert main(['bag', str(source), str(tmp_path / 'o.mcap'), *options, *given]) == 0
        with bag.BagReader(tmp_path / 'o.mcap') as recording:
            assert messages.camera_from_info(recording.first(INFO_TOPIC)) == CAMERA
            depth = messages.depth_to_metres(recording.first(OUTPUTS['depth'][0]))
        np.testing.assert_allclose(np.nanmedian(depth), next(cloud_frames(1)).truth[0, 0], 0.01)
    with pytest.raises(CalibrationError, match='another shape'):
        complete(source, tmp_path / 'p.mcap', calibration=Calibration(
            [60.0, 0, 31.5, 0, 60.0, 23.5, 0, 0, 1], width=64, height=64))


FILE = """
/**:
  ros__parameters:
    use_sim_time: true
    max_depth_m: 50
    min_depth_m: 1
front:
  depth_completion:
    ros__parameters:
      preset: steering
      depth_encoding: 16UC1
      min_depth_m: 2.0
      extrinsics: {source: auto}
other_node:
  ros__parameters: {anything: 5}
"""


def test_a_parameter_file_of_the_node(tmp_path):
    from steer_depth_ros.commands.options import read_parameter_file
    (tmp_path / 'p.yaml').write_text(FILE)
    assert read_parameter_file(tmp_path / 'p.yaml') == {
        'max_depth_m': 50, 'min_depth_m': 2.0, 'preset': 'steering', 'depth_encoding': '16UC1',
        'extrinsics.source': 'auto'}
    source = cloud_bag(tmp_path / 'a.mcap')
    assert main(['bag', str(source), str(tmp_path / 'o.mcap'), '--params',
                 str(tmp_path / 'p.yaml'), '--param', 'cloud_stride=2']) == 0
    with bag.BagReader(tmp_path / 'o.mcap') as recording:
        assert recording.first(OUTPUTS['depth'][0]).encoding == '16UC1'
        assert recording.first(OUTPUTS['cloud'][0]).width < SIZE[0] * SIZE[1] / 3


@pytest.mark.parametrize('text, words', [
    (None, 'No such file'), ('a: [', 'is no YAML'), ('7', 'holds only those of no node'),
    ('camera:\n  ros__parameters: {a: 1}', 'holds only those of /camera'),
    ('a/depth_completion:\n  ros__parameters: {a: 1}\nb/depth_completion:\n  ros__parameters: '
     '{a: 1}', 'holds several: /a/depth_completion, /b/depth_completion')])
def test_a_parameter_file_that_cannot_be_used(tmp_path, text, words):
    from steer_depth_ros.commands.options import read_parameter_file
    if text is not None:
        (tmp_path / 'p.yaml').write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_parameter_file(tmp_path / 'p.yaml')


def test_every_shipped_parameter_file_is_accepted(tmp_path):
    from pathlib import Path

    from steer_depth_ros.commands.options import read_parameter_file
    files = [p for p in (Path(__file__).parents[2] / 'config').glob('*.yaml')]
    assert files
    with bag.BagReader(cloud_bag(tmp_path / 'a.mcap')) as recording:
        for file in files:
            topics = choose_topics(recording)
            assert node_values(recording, topics, **read_parameter_file(file))
