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
"""MCAP of other writers: the mcap package writes what rosbag2 would not."""
import io
import re
import shutil

import numpy as np
import pytest
from sample_recordings import cloud_bag, IMAGE_TOPIC, POINTS_TOPIC

from steer_depth_ros.errors import BagError
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import choose_topics, node_values, run_pipeline

mcap_writer = pytest.importorskip('mcap.writer', reason='pip install mcap')
NOTHING = {'index_types': mcap_writer.IndexType.NONE, 'use_statistics': False,
           'use_summary_offsets': False, 'repeat_schemas': False, 'repeat_channels': False}
PACKED = mcap_writer.CompressionType


def rewritten(source, target, profile='ros2', encoding='cdr', schema='ros2msg', rename=str,
              extra=None, order=lambda records: records, **options):
    """Write the messages of a recording with the mcap package."""
    out = io.BytesIO()
    writer = mcap_writer.Writer(out, **options)
    writer.start(profile=profile, library='test')
    if extra:
        extra(writer)
    with bag.BagReader(source) as recording:
        channels = {}
        for topic, kind in recording.topics.items():
            text, _ = bag.TYPES.generate_msgdef(kind, ros_version=2)
            channels[topic] = writer.register_channel(
                topic, encoding, writer.register_schema(rename(kind), schema, text.encode()))
        for record in order(list(recording.messages())):
            writer.add_message(channels[record.topic], record.log_ns, bytes(record.raw),
                               record.log_ns)
    writer.finish()
    target.write_bytes(out.getvalue())
    return target


def foreign(writer):
    for number, (kind, encoding, data) in enumerate((
            ('foxglove.CompressedImage', 'protobuf', b'\x0a\x04abcd'), ('gps', 'json', b'{}'))):
        schema = writer.register_schema(kind, encoding, b'')
        channel = writer.register_channel(f'/other{number}', encoding, schema)
        writer.add_message(channel, 5, data, 5)
    writer.add_message(writer.register_channel('/bare', 'cbor', 0), 5, b'\xa0', 5)


def frames_of(path):
    with bag.BagReader(path) as recording:
        topics = choose_topics(recording)
        return [r.frame.stamp_ns for r in run_pipeline(recording, topics,
                                                       node_values(recording, topics))]


@pytest.mark.parametrize('options', [
    {}, {'compression': PACKED.LZ4}, {'compression': PACKED.NONE}, {'use_chunking': False},
    NOTHING, {'use_chunking': False, **NOTHING}, {'chunk_size': 1000}, {'use_statistics': False},
    {'repeat_channels': False}, {'index_types': mcap_writer.IndexType.NONE},
    {'index_types': mcap_writer.IndexType.CHUNK}, {'extra': foreign}, {'profile': ''},
    {'rename': lambda kind: kind.replace('/msg/', '/')}, {'schema': 'ros2idl'},
    {'rename': lambda kind: kind.replace('/msg/', '::msg::dds_::') + '_', 'schema': 'omgidl'},
    {'enable_crcs': False}], ids=str)
def test_sound_files_of_any_writer_are_read(tmp_path, options):
    source = cloud_bag(tmp_path / 'a.mcap')
    assert frames_of(rewritten(source, tmp_path / 'b.mcap', **options)) == frames_of(source)


@pytest.mark.parametrize('options', [{}, {'chunk_size': 3000}, {'use_chunking': False}, NOTHING,
                                     {'chunk_size': 3000, **NOTHING}])
def test_messages_out_of_order_come_in_the_order_of_time(tmp_path, options):
    source = cloud_bag(tmp_path / 'a.mcap', 8)

    def shuffled(records):
        return [records[i] for i in np.random.default_rng(3).permutation(len(records))]

    rewritten(source, tmp_path / 'b.mcap', order=shuffled, **options)
    with bag.BagReader(source) as one, bag.BagReader(tmp_path / 'b.mcap') as other:
        assert {*other.messages()} == {*one.messages()}
        for topic in (None, IMAGE_TOPIC):
            times = [r.log_ns for r in other.messages(*([topic] if topic else []))]
            assert times == sorted(times)
        record = list(one.messages(POINTS_TOPIC))[5]
        assert other.at(POINTS_TOPIC, record.log_ns, bag.cdr_stamp_ns(record.raw)) == record
        assert other.counts == one.counts


@pytest.mark.parametrize('options, words', [
    ({'profile': 'ros1', 'encoding': 'ros1', 'schema': 'ros1msg'}, 'ros1 sensor_msgs/msg/'),
    ({'profile': '', 'encoding': 'protobuf', 'schema': 'protobuf',
      'rename': lambda kind: f'foxglove.{kind[-5:]}'}, r'protobuf foxglove\.')])
def test_files_without_messages_of_ros_2_say_what_they_hold(tmp_path, options, words):
    path = rewritten(cloud_bag(tmp_path / 'a.mcap'), tmp_path / 'b.mcap', **options)
    with pytest.raises(BagError, match=f'no messages of ROS 2 .*{words}.*convert') as raised:
        bag.BagReader(path)
    assert 'damaged' not in str(raised.value)


def test_a_chunk_with_one_wrong_bit_is_damaged(tmp_path):
    path = rewritten(cloud_bag(tmp_path / 'a.mcap'), tmp_path / 'b.mcap',
                     compression=PACKED.NONE, enable_data_crcs=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BagError, match='a chunk is damaged'):
        frames_of(path)


@pytest.mark.parametrize('ending', ['.mcap', '.db3'])
def test_metadata_edited_for_replay(tmp_path, ending):
    folder = tmp_path / 'folder'
    folder.mkdir()
    whole = cloud_bag(tmp_path / 'whole')  # a folder with sqlite3
    text = (whole / 'metadata.yaml').read_text()
    if ending == '.mcap':
        cloud_bag(folder / 'whole.mcap')
        text = text.replace('whole.db3', 'whole.mcap').replace('sqlite3', 'mcap')
    else:
        shutil.copy(whole / 'whole.db3', folder)
    text = text.replace('durability: transient_local', 'durability: volatile')
    (folder / 'metadata.yaml').write_text(re.sub(r'depth: \d+', 'depth: 77', text))
    assert len(frames_of(folder)) == 3
    with bag.BagReader(folder) as recording:
        assert recording.qos[IMAGE_TOPIC][0].depth == 77  # as the player would take it
    (folder / 'metadata.yaml').write_text(re.sub(r'liveliness: \w+', '', text))
    assert len(frames_of(folder)) == 3


def test_splits_are_one_recording_with_and_without_metadata(tmp_path):
    folder = tmp_path / 'folder'
    folder.mkdir()
    with bag.BagReader(cloud_bag(tmp_path / 'a.mcap', 12)) as recording:
        records, topics = list(recording.messages()), recording.topics
    for number in range(12):
        part = [r for r in records if r.log_ns == sorted({r.log_ns for r in records})[number]]
        with bag.BagWriter(folder / f'folder_{number}.mcap') as writer:
            for topic in {r.topic for r in part}:
                writer.add_topic(topic, topics[topic])
            for record in part:
                writer.write(record.topic, record.log_ns, record.raw)
    expected = frames_of(tmp_path / 'a.mcap')
    assert frames_of(folder) == expected and len(expected) == 12
    (folder / 'metadata.yaml').write_text(
        'rosbag2_bagfile_information:\n  relative_file_paths:\n' + ''.join(
            f'    - old_name/folder_{number}.mcap\n' for number in range(12)))
    assert frames_of(folder) == expected
    (folder / 'folder_7.mcap').unlink()
    with pytest.raises(BagError, match='files are missing: folder_7.mcap'):
        frames_of(folder)


def test_files_compressed_as_a_whole_or_by_message(tmp_path):
    source = cloud_bag(tmp_path / 'a.mcap')
    head = 'rosbag2_bagfile_information:\n  compression_format: zstd\n  compression_mode: '
    for mode in ('FILE', 'MESSAGE'):
        folder = tmp_path / mode
        folder.mkdir()
        name = 'x.mcap.zstd' if mode == 'FILE' else 'x.mcap'
        if mode == 'FILE':
            (folder / name).write_bytes(bag.zstd.compress(source.read_bytes()))
        else:
            rewritten(source, folder / name, order=lambda records: [
                r._replace(raw=bag.zstd.compress(bytes(r.raw))) for r in records])
        (folder / 'metadata.yaml').write_text(f'{head}{mode}\n  relative_file_paths: [{name}]\n')
        assert frames_of(folder) == frames_of(source)
