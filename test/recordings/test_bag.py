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
import re
import shutil
import sqlite3

import numpy as np
import pytest
from sample_recordings import (
    CAMERA,
    CAMERA_FROM_LIDAR,
    cloud_bag,
    cloud_frames,
    depth_frames,
    IMAGE_TOPIC,
    INFO_TOPIC,
    PlaneCompleter,
    POINTS_TOPIC,
    SIZE,
    write_bag,
)

from steer_depth_ros.errors import BagError, ConfigError, SteerDepthError
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import (
    choose_topics,
    node_values,
    read_transforms,
    read_truth,
    run_pipeline,
)
from steer_depth_ros.recordings.bag_tools import complete_bag, frames_to_bag, OUTPUTS
from steer_depth_ros.ros import messages

ENDINGS = ('recording.mcap', 'recording.db3', 'recording')


def results(path, **given):
    with bag.BagReader(path) as recording:
        topics = choose_topics(recording)
        yield from run_pipeline(recording, topics, node_values(recording, topics, **given))


def complete(source, target, **options):
    return complete_bag(source, target, PlaneCompleter(), **options)


def depth_of(path):
    with bag.BagReader(path) as recording:
        return [(r.log_ns, recording.decode(r)) for r in recording.messages(OUTPUTS['depth'][0])]


@pytest.mark.parametrize('name', ENDINGS)
def test_frames_survive_the_recording(tmp_path, name):
    path = cloud_bag(tmp_path / name)
    for result, recorded in zip(results(path), cloud_frames(), strict=True):
        frame = recorded.frame
        np.testing.assert_array_equal(result.frame.image, frame.image)
        np.testing.assert_array_equal(result.frame.points, frame.points)
        np.testing.assert_allclose(result.frame.camera_from_points, CAMERA_FROM_LIDAR, atol=1e-12)
        assert result.frame.camera == CAMERA
        assert result.frame.stamp_ns == frame.stamp_ns
        np.testing.assert_allclose(result.sparse.uv, frame.sparse_depth().uv, atol=1e-4)


def test_depth_image_and_truth_survive(tmp_path):
    frames_to_bag(depth_frames(), tmp_path / 'd.mcap')
    for result, recorded in zip(results(tmp_path / 'd.mcap'), depth_frames(), strict=True):
        np.testing.assert_array_equal(result.sparse.depth, recorded.frame.sparse.depth)
    with bag.BagReader(cloud_bag(tmp_path / 'c.mcap')) as recording:
        truth = read_truth(recording)
    assert [float(t[0, 0]) for t in truth.values()] == [4.0, 4.5, 5.0]


def test_static_transforms_are_latched(tmp_path):
    with bag.BagReader(cloud_bag(tmp_path / 'c')) as recording:
        assert recording.qos['/tf_static'] == [bag.LATCHED]
        transforms, ignored = read_transforms(recording)
    assert ignored == []
    matrix = transforms.lookup('camera_optical_frame', 'lidar')
    np.testing.assert_allclose(matrix, CAMERA_FROM_LIDAR, atol=1e-12)


@pytest.mark.parametrize('name', ENDINGS)
def test_completes_offline(tmp_path, name):
    source = cloud_bag(tmp_path / 'source.mcap')
    figures = complete(source, tmp_path / name)
    assert figures == {'frames': 3, 'images': 3, 'dropped': {}}
    with bag.BagReader(tmp_path / name) as recording:
        assert recording.counts == {topic: 3 for topic, _ in OUTPUTS.values()}
        info = recording.first(OUTPUTS['camera_info'][0])
        cloud = recording.first(OUTPUTS['cloud'][0])
    assert messages.camera_from_info(info) == CAMERA
    assert len(messages.cloud_to_xyz(cloud)) == SIZE[0] * SIZE[1]
    for (log_ns, message), recorded in zip(depth_of(tmp_path / name), cloud_frames(),
                                           strict=True):
        assert log_ns == messages.stamp_ns(message.header) == recorded.frame.stamp_ns
        assert message.header.frame_id == recorded.frame.frame_id
        # The wall is seen at the depth at which the LiDAR measured it.
        np.testing.assert_allclose(messages.depth_to_metres(message), recorded.truth, atol=1e-5)


def test_offline_completion_is_deterministic(tmp_path):
    source = cloud_bag(tmp_path / 'source.mcap')
    for folder in ('a', 'b'):
        complete(source, tmp_path / folder / 'out.mcap')
    one, other = ((tmp_path / folder / 'out.mcap').read_bytes() for folder in ('a', 'b'))
    assert one == other


def test_parameters_of_the_node_apply(tmp_path):
    source = cloud_bag(tmp_path / 'source.mcap')
    complete(source, tmp_path / 'out.mcap', values={'depth_encoding': '16UC1'})
    assert depth_of(tmp_path / 'out.mcap')[0][1].encoding == '16UC1'
    with pytest.raises(ConfigError, match='there is no parameter slop'):
        complete(source, tmp_path / 'no.mcap', values={'slop': 1.0})
    assert not (tmp_path / 'no.mcap').exists()


def test_a_recording_without_metadata_is_read(tmp_path):
    path = cloud_bag(tmp_path / 'folder')
    (path / 'metadata.yaml').unlink()
    assert len(list(results(path))) == 3


def test_does_not_overwrite_unasked(tmp_path):
    path = cloud_bag(tmp_path / 'c.mcap')
    before = path.read_bytes()
    with pytest.raises(BagError, match='exists already'):
        frames_to_bag(depth_frames(), path)
    assert path.read_bytes() == before
    frames_to_bag(depth_frames(), path, overwrite=True)
    assert path.read_bytes() != before


def test_folders_that_are_no_recording_are_never_overwritten(tmp_path):
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'thesis.txt').write_text('x')
    with pytest.raises(BagError, match='but no recording'):
        frames_to_bag(cloud_frames(1), tmp_path / 'notes', overwrite=True)
    assert (tmp_path / 'notes' / 'thesis.txt').read_text() == 'x'
    recording = cloud_bag(tmp_path / 'recording', 1)
    frames_to_bag(cloud_frames(2), recording, overwrite=True)
    assert len(list(results(recording))) == 2


def test_a_folder_of_several_recordings_is_not_taken_for_one(tmp_path):
    for name in ('a.mcap', 'b_0.mcap', 'b_1.mcap'):
        cloud_bag(tmp_path / name, 1)
    with pytest.raises(BagError, match=r'several recordings \(a, b\); name one'):
        bag.BagReader(tmp_path)
    (tmp_path / 'a.mcap').unlink()
    assert bag.BagReader(tmp_path).topics
    with pytest.raises(BagError, match='ROS 1'):
        bag.BagWriter(tmp_path / 'c.bag')


@pytest.mark.parametrize('target', ['c.mcap', '../{}/c.mcap'])
def test_a_recording_is_not_replaced_by_what_is_made_from_it(tmp_path, target):
    path = cloud_bag(tmp_path / 'c.mcap')
    before = path.read_bytes()
    with pytest.raises(BagError, match='would replace the recording'):
        complete_bag(path, tmp_path / target.format(tmp_path.name), PlaneCompleter(),
                     overwrite=True)
    assert path.read_bytes() == before


def test_frames_with_different_poses_do_not_share_a_recording(tmp_path):
    frames = list(cloud_frames(2))
    frames[1].frame.camera_from_points = CAMERA_FROM_LIDAR.copy()
    frames[1].frame.camera_from_points[0, 3] += 0.1
    with pytest.raises(BagError, match='T_cam_lidar of frame 000001 is not'):
        frames_to_bag(frames, tmp_path / 'c.mcap')


def test_the_pose_is_recorded_with_the_first_frame_that_has_points(tmp_path):
    first, second = next(depth_frames()), list(cloud_frames(2))[1]
    path = tmp_path / 'c.mcap'
    assert frames_to_bag([first, second], path) == 2
    with bag.BagReader(path) as recording:
        moved = recording.decode(next(recording.messages('/tf_static'))).transforms[0].transform
    np.testing.assert_allclose([getattr(moved.translation, axis) for axis in 'xyz'],
                               CAMERA_FROM_LIDAR[:3, 3])


def test_an_error_leaves_nothing_behind(tmp_path):
    def frames():
        yield from cloud_frames(1)
        raise RuntimeError

    for name in ENDINGS:
        with pytest.raises(RuntimeError):
            frames_to_bag(frames(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('changes, words', [
    ({'camera_info': None}, 'no topic for camera_info; it has /camera/image'),
    ({'image': None}, 'no topic for image; it has /camera/camera_info'),
    ({'points': None}, r'no topic for points \(a PointCloud2\) or sparse_depth'),
    ({'image': {'encoding': 'h264'}}, f'{IMAGE_TOPIC}: image encoding "h264"'),
    ({'camera_info': {'distortion_model': 'magic', 'd': [0.1]}},
     f'{INFO_TOPIC}: unknown distortion model "magic"'),
    ({'camera_info': {'k': [0.0] * 9}}, f'{INFO_TOPIC}: the calibration cannot be used'),
    ({'camera_info': {'width': 128, 'height': 48}},
     f'{INFO_TOPIC}: camera_info describes images of 128 x 48 pixels, .* 64 x 48, another shape'),
    ({'points': {'width': 10 ** 6}}, f'{POINTS_TOPIC}: point cloud of 1000000 x 1'),
    ({'points': {'fields': []}}, f'{POINTS_TOPIC}: point cloud has no field x, y, z'),
    ({'tf': None}, r'does not tell where the depth sensor is \(frame "camera" does not exist'),
])
def test_wrong_input_is_one_sentence_that_names_the_topic(tmp_path, changes, words):
    source = write_bag(tmp_path / 'source.mcap', **changes)
    with pytest.raises(SteerDepthError, match=words) as raised:
        complete(source, tmp_path / 'out.mcap')
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'out.mcap').exists()


def test_stamps_that_never_meet_are_explained(tmp_path):
    with bag.BagWriter(tmp_path / 'apart.mcap') as writer:
        with bag.BagReader(cloud_bag(tmp_path / 'c.mcap', 8)) as recording:
            for topic, kind in recording.topics.items():
                writer.add_topic(topic, kind)
            for record in recording.messages():
                message = recording.decode(record)
                if record.topic == POINTS_TOPIC:
                    message.header.stamp.sec += 100
                writer.write(record.topic, record.log_ns, message)
    with pytest.raises(BagError, match=f'{IMAGE_TOPIC} fits one of {POINTS_TOPIC}.*clocks'):
        complete(tmp_path / 'apart.mcap', tmp_path / 'out.mcap')


def test_several_candidates_must_be_chosen_from(tmp_path):
    with bag.BagReader(write_bag(tmp_path / 'one.mcap')) as recording:
        with bag.BagWriter(tmp_path / 'two.mcap') as writer:
            for topic, kind in recording.topics.items():
                for name in [topic, '/left/image'] if kind == bag.IMAGE else [topic]:
                    writer.add_topic(name, kind)
                    for record in recording.messages(topic):
                        writer.write(name, record.log_ns, record.raw)
    source = tmp_path / 'two.mcap'
    with pytest.raises(BagError, match='could be the image: /camera/image, /left/image; choose'):
        complete(source, tmp_path / 'out.mcap')
    with pytest.raises(BagError, match='has no topic /right/image'):
        complete(source, tmp_path / 'out.mcap', topics={'image': '/right/image'})
    assert complete(source, tmp_path / 'out.mcap', topics={'image': '/left/image'})['frames'] == 1


@pytest.mark.parametrize('name', ENDINGS)
def test_an_empty_recording_is_refused(tmp_path, name):
    with bag.BagWriter(tmp_path / name) as writer:
        writer.add_topic(IMAGE_TOPIC, bag.IMAGE)
    with pytest.raises(BagError, match='is empty'):
        bag.BagReader(tmp_path / name)


@pytest.mark.parametrize('kept', [0, 4, 60, 0.3, 0.6, 0.95])
@pytest.mark.parametrize('name', ENDINGS)
def test_a_truncated_recording_is_refused(tmp_path, name, kept):
    path = cloud_bag(tmp_path / name)
    file = path / 'recording.db3' if path.is_dir() else path
    size = file.stat().st_size
    with open(file, 'r+b') as opened:
        opened.truncate(int(kept * size) if isinstance(kept, float) else kept)
    with pytest.raises(BagError, match='truncated or damaged|is empty'):
        complete(path, tmp_path / 'out.mcap')
    assert not (tmp_path / 'out.mcap').exists()


def test_a_damaged_message_is_refused(tmp_path):
    with bag.BagWriter(tmp_path / 'bad.mcap') as writer:
        with bag.BagReader(write_bag(tmp_path / 'good.mcap')) as recording:
            for topic, kind in recording.topics.items():
                writer.add_topic(topic, kind)
            for record in recording.messages():
                raw = record.raw[:40] if record.topic == POINTS_TOPIC else record.raw
                writer.write(record.topic, record.log_ns, raw)
    with pytest.raises(BagError, match=f'a message of {POINTS_TOPIC} .* cannot be decoded'):
        complete(tmp_path / 'bad.mcap', tmp_path / 'out.mcap')


def test_messages_without_room_for_a_stamp_are_dropped(tmp_path):
    with bag.BagReader(cloud_bag(tmp_path / 'good.mcap')) as recording, \
            bag.BagWriter(tmp_path / 'bad.mcap') as writer:
        for topic, kind in recording.topics.items():
            writer.add_topic(topic, kind)
        for count, record in enumerate(recording.messages()):
            writer.write(record.topic, record.log_ns, record.raw[:6] if count > 9 else record.raw)
    told = []
    figures = complete(tmp_path / 'bad.mcap', tmp_path / 'out.mcap', tell=told.append)
    assert figures['frames'] == 2 and figures['dropped']['BagError'] == 1
    assert '6 bytes has no room' in told[0]


def test_metadata_that_lists_messages_which_are_not_there(tmp_path):
    path = cloud_bag(tmp_path / 'folder')
    with sqlite3.connect(path / 'folder.db3') as database:
        database.execute('DELETE FROM messages')
    with pytest.raises(BagError, match='lists messages of .* but holds none'):
        complete(path, tmp_path / 'out.mcap')


def test_metadata_that_count_messages_in_words(tmp_path):
    path = cloud_bag(tmp_path / 'folder')
    metadata = (path / 'metadata.yaml').read_text()
    counted = re.sub(r'message_count: \d+', 'message_count: many', metadata)
    (path / 'metadata.yaml').write_text(counted)
    with pytest.raises(BagError, match='number of messages is no number'):
        bag.BagReader(path)


@pytest.mark.parametrize('column', ['name', 'type'])
def test_a_topic_without_name_or_type_is_a_damaged_recording(tmp_path, column):
    path = cloud_bag(tmp_path / 'a.db3')
    with sqlite3.connect(path) as database:
        columns = [row[1] for row in database.execute('PRAGMA table_info(topics)')]
        values = ', '.join('NULL' if c == column else c for c in columns)
        database.execute(f'CREATE TABLE other AS SELECT {values} FROM topics')
        database.execute('DROP TABLE topics')
        database.execute(f'CREATE TABLE topics ({", ".join(columns)})')
        database.execute('INSERT INTO topics SELECT * FROM other')
    with pytest.raises(BagError, match='without name or type'):
        bag.BagReader(path)


@pytest.mark.parametrize('change', ['data = 7', "data = 'text'", "timestamp = 'noon'"])
def test_a_message_that_is_not_bytes_is_a_damaged_recording(tmp_path, change):
    path = cloud_bag(tmp_path / 'a.db3')
    with sqlite3.connect(path) as database:
        database.execute(f'UPDATE messages SET {change} WHERE id > 6')
    with pytest.raises(BagError, match='truncated or damaged'):
        complete(path, tmp_path / 'out.mcap')


def test_a_length_beyond_all_memory_is_a_damaged_recording(tmp_path):
    path = cloud_bag(tmp_path / 'a.mcap')
    data = bytearray(path.read_bytes())
    first = len(b'\x89MCAP0\r\n') + 1
    data[first:first + 8] = b'\xff' * 7 + b'\x0f'
    path.write_bytes(data)
    with pytest.raises(BagError, match='truncated or damaged'):
        bag.BagReader(path)


def test_paths_that_are_not_recordings(tmp_path):
    (tmp_path / 'text.txt').write_text('no bag')
    (tmp_path / 'old.bag').write_text('#ROSBAG V2.0')
    (tmp_path / 'folder').mkdir()
    for name, words in (('missing.mcap', 'there is no recording'), ('text.txt', 'is no recording'),
                        ('old.bag', 'is a ROS 1 bag'), ('folder', 'has no metadata.yaml')):
        with pytest.raises(BagError, match=words):
            bag.BagReader(tmp_path / name)


def test_stamp_is_read_without_decoding(tmp_path):
    with bag.BagReader(write_bag(tmp_path / 'one.mcap')) as recording:
        record = next(recording.messages(IMAGE_TOPIC))
        message = recording.decode(record)
    assert bag.cdr_stamp_ns(record.raw) == messages.stamp_ns(message.header)
    big = bag.TYPES.serialize_cdr(message, bag.IMAGE, little_endian=False)
    assert bag.cdr_stamp_ns(bytes(big)) == messages.stamp_ns(message.header)


def test_a_folder_moved_elsewhere_still_reads(tmp_path):
    path = cloud_bag(tmp_path / 'folder')
    shutil.move(path, tmp_path / 'other')
    assert len(list(results(tmp_path / 'other'))) == 3
