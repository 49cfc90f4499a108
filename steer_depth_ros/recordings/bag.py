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
"""Read and write rosbag2 recordings (sqlite3, MCAP) without a ROS installation."""
from contextlib import contextmanager, ExitStack
from itertools import islice
import os
from pathlib import Path
import re
import shutil
import sqlite3
import struct
import sys
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, List, NamedTuple

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import get_typestore, Stores
import yaml

from steer_depth_ros.errors import BagError, DiskFullError
from steer_depth_ros.recordings.mcap import McapFile

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
TF_MESSAGE = 'tf2_msgs/msg/TFMessage'
ENDINGS = {'.mcap': StoragePlugin.MCAP, '.db3': StoragePlugin.SQLITE3}
TYPES = get_typestore(Stores.ROS2_JAZZY)
METADATA = 'metadata.yaml'
FIRST_FEW = 10  # messages of a topic that first() tries
LISTED = 5  # topics named in an error
RESERVE_BYTES = 4 * 2 ** 20  # enough to close a recording: the last chunk and the index
CHUNK_BYTES = 2 ** 20  # the most that the storage libraries buffer before they write
FOREVER = QosTime(2147483647, 0)  # the largest duration that rosbag2 reads back
LATCHED = Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
              FOREVER, FOREVER, QosLiveliness.AUTOMATIC, FOREVER, False)
RELIABLE = LATCHED._replace(depth=5, durability=QosDurability.VOLATILE)  # as the node publishes


class Record(NamedTuple):
    """One recorded message: `raw` is its CDR, `log_ns` the time of recording."""

    topic: str
    log_ns: int
    raw: Any


class BagReader:
    """
    Context manager that reads a rosbag2 folder, or a single .mcap or .db3 file.

    topics: message type of each topic with messages in CDR, as ROS 2 writes them. counts: their
    number. foreign: what the other topics hold. qos: offered QoS by topic.
    Raise BagError if it is missing, empty, truncated or damaged, or holds no such messages.
    """

    def __init__(self, path):
        self.path = Path(path)
        source = _storage(self.path)
        self.topics: Dict[str, str] = {}
        self.counts: Dict[str, int] = {}
        self.foreign: Dict[str, str] = {}
        self.qos: Dict[str, list] = {}
        self._open = ExitStack()
        self._storages: List[Any] = []
        with self._readable():
            try:
                self._open_all(source)
            except BaseException:
                self.close()
                raise
        if self.topics:
            return
        self.close()
        if self.foreign:
            what = ', '.join(f'{t} ({kind})' for t, kind in sorted(self.foreign.items())[:LISTED])
            raise BagError(f'the recording {path} holds no messages of ROS 2 (CDR), only '
                           f'{what}; record with "ros2 bag record", or convert it (.bag of ROS 1: '
                           'rosbags-convert)')
        raise BagError(f'the recording {path} is empty: it holds no messages; record again')

    def messages(self, *topics) -> Iterator[Record]:
        """Yield the messages of these topics (all if none are given) in recorded order."""
        yield from self._messages(topics or self.topics)

    def at(self, topic, log_ns, stamp_ns) -> Record:
        """Return the message of a topic that was recorded at `log_ns` and has this stamp."""
        for record in self._messages([topic], log_ns, log_ns + 1):
            if cdr_stamp_ns(record.raw) == stamp_ns:
                return record
        raise BagError(f'the recording {self.path} has changed: the message of {topic} at '
                       f'{log_ns} ns is gone; start again')

    def decode(self, record) -> Any:
        """Decode the message of a record."""
        return decode(record.raw, self.topics[record.topic], record.topic)

    def first(self, topic) -> Any:
        """Decode the first intact message among the first few of a topic."""
        error = None
        for record in islice(self.messages(topic), FIRST_FEW):
            try:
                return self.decode(record)
            except BagError as damaged:
                error = error or damaged
        raise error or BagError(
            f'the recording {self.path} lists messages of {topic} but holds none; restore it with '
            '"ros2 bag reindex"')

    def close(self):
        self._open.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _open_all(self, source):
        metadata, unpack = {}, ''
        files = [source]
        if source.is_dir():
            metadata = _metadata(source)
            files = _files(source, metadata)
            unpack = str(metadata.get('compression_mode') or '').lower()
            if unpack not in ('', 'none') and metadata.get('compression_format') != 'zstd':
                raise ValueError(f'compression {metadata.get("compression_format")} is unknown')
        for file in files:
            if file.suffix == '.zstd':
                file = _unpacked(file, self._open)
            kind = McapStorage if file.suffix.lower() == '.mcap' else SqliteStorage
            storage = kind(file, unpack == 'message')
            self._open.callback(storage.close)
            self._storages.append(storage)
        for storage in self._storages:
            for stream in storage.streams:
                self._note(stream)
        for entry in metadata.get('topics_with_message_count') or ():
            self._correct(entry)

    def _note(self, stream):
        """Add a topic of a storage file."""
        if not isinstance(stream.topic, str) or not isinstance(stream.msgtype, str):
            raise ValueError('a topic without name or type')
        if not stream.messages:
            return
        if stream.foreign:
            self.foreign[stream.topic] = stream.foreign
            return
        self.topics[stream.topic] = stream.msgtype
        self.counts[stream.topic] = self.counts.get(stream.topic, 0) + stream.messages
        self.qos.setdefault(stream.topic, stream.qos)

    def _correct(self, entry):
        """Apply what metadata.yaml says about a topic: its QoS may have been edited for replay."""
        about, count = entry['topic_metadata'], entry['message_count']
        name, kind = about['name'], about['type']
        if not isinstance(count, int):
            raise ValueError('a topic whose number of messages is no number')
        if not isinstance(name, str) or not isinstance(kind, str):
            raise ValueError('a topic without name or type')
        if count and name not in {*self.topics, *self.foreign}:
            self.topics[name], self.counts[name] = ros_type(kind), count
        if about.get('offered_qos_profiles'):
            self.qos[name] = _qos(about['offered_qos_profiles'])

    def _messages(self, topics, start_ns=None, stop_ns=None):
        with self._readable():
            for storage in self._storages:  # one after the other, as they were recorded
                for topic, log_ns, raw in storage.messages(topics, start_ns, stop_ns):
                    if not (isinstance(raw, (bytes, memoryview)) and isinstance(log_ns, int)):
                        raise ValueError('a message that is no bytes')
                    yield Record(topic, log_ns, raw)

    @contextmanager
    def _readable(self):
        """Turn whatever the storage libraries raise for a damaged file into a BagError."""
        try:
            yield
        except (GeneratorExit, BagError):
            raise
        except Exception as error:
            reason = str(error).strip().rstrip('.') or type(error).__name__
            raise BagError(
                f'the recording {self.path} is truncated or damaged ({reason}); repair it with '
                '"mcap recover" (.mcap) or "ros2 bag reindex" (a folder), or record again'
            ) from None


class Stream(NamedTuple):
    """A topic of a storage file; foreign: a description of messages that are not ROS 2."""

    topic: str
    msgtype: str
    messages: int
    qos: list
    foreign: str = ''


class McapStorage:
    """An .mcap file; `packed`: each message is compressed separately."""

    def __init__(self, path, packed):
        self._file, self._packed = McapFile(path), packed
        self._read: Dict[int, str] = {}
        self.streams = []
        for number, channel in self._file.channels.items():
            foreign = ''
            if channel.encoding.lower() != 'cdr' or not channel.schema:
                foreign = ' '.join((channel.encoding or 'no encoding',
                                    channel.schema or 'without schema'))
            else:
                self._read[number] = channel.topic
            self.streams.append(Stream(
                channel.topic, ros_type(channel.schema), self._file.counts[number],
                _qos(channel.metadata.get('offered_qos_profiles', '')), foreign))

    def messages(self, topics, start_ns, stop_ns):
        chosen = [number for number, topic in self._read.items() if topic in topics]
        limits = () if start_ns is None else (start_ns, stop_ns)
        for number, log_ns, raw in self._file.messages(chosen, *limits):
            yield self._read[number], log_ns, zstd.decompress(raw) if self._packed else raw

    def close(self):
        self._file.close()


class SqliteStorage:
    """A .db3 file, read by rosbags."""

    def __init__(self, path, packed):
        self._reader, self._packed = Reader(path), packed
        self._reader.open()
        self.streams = []
        self._read = []
        for connection in self._reader.connections:
            about: Any = connection.ext
            kind = about.serialization_format
            if kind == 'cdr':
                self._read.append(connection)
            self.streams.append(Stream(
                connection.topic, connection.msgtype, connection.msgcount,
                about.offered_qos_profiles,
                '' if kind == 'cdr' else f'{kind} {connection.msgtype}'))

    def messages(self, topics, start_ns, stop_ns):
        chosen = [c for c in self._read if c.topic in topics]
        if not chosen:
            return
        for connection, log_ns, raw in self._reader.messages(chosen, start_ns, stop_ns):
            yield connection.topic, log_ns, zstd.decompress(raw) if self._packed else raw

    def close(self):
        self._reader.close()


class BagWriter:
    """
    Context manager that writes an .mcap or .db3 file, by the ending, else a folder with sqlite3.

    The target appears when it closes, and not at all after an error. If the disk is full, write()
    raises DiskFullError before anything is damaged, and what was written is closed and kept.
    overwrite: replace an existing recording instead of raising BagError. Other folders with files
    in them are never replaced (BagError).
    """

    def __init__(self, path, overwrite=False):
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f'{self.path} exists already; choose another name, remove it or '
                           'pass --overwrite')
        if self.path.suffix == '.bag':
            raise BagError(f'{self.path} would be a bag of ROS 1; end it in .mcap or .db3')
        if (self.path.is_dir() and not (self.path / METADATA).exists()
                and any(self.path.iterdir())):
            raise BagError(f'{self.path} is a folder with files, but no recording, so it is not '
                           'overwritten; choose another name or remove it')
        self._partial = self.path.parent / f'.{self.path.name}.partial'
        self._connections: Dict[str, Any] = {}
        plugin = ENDINGS.get(self.path.suffix, StoragePlugin.SQLITE3)
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._writer = Writer(self._partial / self.path.name, version=9,
                                  storage_plugin=plugin)
            self._writer.open()
            # Reserve the space that closing the recording needs.
            with open(self._partial / 'reserve', 'wb') as reserve:
                os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise BagError(f'cannot write {self.path}: {error.strerror}') from None

    def add_topic(self, topic, msgtype, qos=()):
        """Declare a topic with its offered QoS; by default static transforms are latched."""
        qos = list(qos) or [LATCHED if topic.endswith('/tf_static') else RELIABLE]
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=TYPES, offered_qos_profiles=qos)

    def write(self, topic, log_ns, message):
        """Write a message: CDR bytes, or one made by `build`."""
        if not isinstance(message, (bytes, bytearray, memoryview)):
            message = TYPES.serialize_cdr(message, message.__msgtype__)
        if shutil.disk_usage(self._partial).free < CHUNK_BYTES + 2 * len(message):
            raise DiskFullError(f'the disk of {self.path} is full; the recording ends here and '
                                'keeps what it has, free some space for more')
        with self._writable():
            self._writer.write(self._connections[topic], log_ns, message)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        (self._partial / 'reserve').unlink(missing_ok=True)
        try:
            if kind is None or issubclass(kind, DiskFullError):
                with self._writable():
                    self._writer.close()
                    self._move_into_place()
            else:
                self._writer.abort()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    @contextmanager
    def _writable(self):
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise BagError(f'cannot write {self.path}: '
                           f'{getattr(error, "strerror", None) or error}') from None

    def _move_into_place(self):
        written = self._partial / self.path.name
        if self.path.suffix in ENDINGS:
            written = next(p for p in written.iterdir() if p.suffix == self.path.suffix)
        if self.path.is_dir():
            shutil.rmtree(self.path)
        written.replace(self.path)


def require_apart(source, target) -> None:
    """Raise BagError if writing the target would replace the recording that is read, or mix in."""
    source, target = Path(source).resolve(), Path(target).resolve()
    if target == source or source in target.parents or target in source.parents:
        raise BagError(f'{target} would replace the recording {source} that it is made from; '
                       'choose another name')


def decode(raw, msgtype, topic):
    """Decode CDR; raise BagError if the type is unknown or the bytes are damaged."""
    try:
        return TYPES.deserialize_cdr(raw, msgtype)
    except Exception as error:  # damaged bytes cause struct, index, unicode and other errors
        raise BagError(f'a message of {topic} ({msgtype}) cannot be decoded: '
                       f'{error or type(error).__name__}; record again') from None


def build(msgtype, stamp_ns, frame_id, fields) -> Any:
    """Build a message with a header from the plain fields of ros/messages.py."""
    fields = {name: _as_rosbags(name, value) for name, value in fields.items()}
    if msgtype == CAMERA_INFO:
        roi = TYPES.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        fields = {'binning_x': 0, 'binning_y': 0, 'roi': roi, **fields}
    return TYPES.types[msgtype](header=header(stamp_ns, frame_id), **fields)


def header(stamp_ns, frame_id) -> Any:
    """Build a std_msgs/Header."""
    stamp = TYPES.types['builtin_interfaces/msg/Time'](stamp_ns // 10 ** 9, stamp_ns % 10 ** 9)
    return TYPES.types['std_msgs/msg/Header'](stamp, frame_id)


def transform_message(parent, child, stamp_ns, xyz, quaternion) -> Any:
    """Build a TFMessage with one transform; quaternion is (x, y, z, w)."""
    geometry = 'geometry_msgs/msg/'
    transform = TYPES.types[geometry + 'Transform'](
        TYPES.types[geometry + 'Vector3'](*map(float, xyz)),
        TYPES.types[geometry + 'Quaternion'](*map(float, quaternion)))
    stamped = TYPES.types[geometry + 'TransformStamped'](
        header(stamp_ns, parent), child, transform)
    return TYPES.types[TF_MESSAGE]([stamped])


def cdr_stamp_ns(raw) -> int:
    """Read only the stamp of a message with a header; raise BagError if it is too short."""
    try:
        seconds, nanoseconds = struct.unpack_from('<iI' if raw[1] & 1 else '>iI', raw, 4)
    except (struct.error, IndexError):
        raise BagError(f'a message of {len(raw)} bytes has no room for a header; record '
                       'again') from None
    return seconds * 10 ** 9 + nanoseconds


def _as_rosbags(name, value):
    if name == 'fields':
        return [TYPES.types['sensor_msgs/msg/PointField'](**field) for field in value]
    return np.array(value, np.float64) if isinstance(value, (list, tuple)) else value


def ros_type(name) -> str:
    """Return a message type in ROS 2 spelling: other writers omit /msg/."""
    if not isinstance(name, str):
        return name
    parts = [part for part in name.replace('::', '/').split('/') if part not in ('dds_', '')]
    if len(parts) == 2:
        parts.insert(1, 'msg')
    return '/'.join(parts).removesuffix('_')


def _qos(text) -> list:
    """Parse offered QoS; return none if it is malformed, as the messages may still be intact."""
    try:
        return parse_qos(text)
    except Exception:  # an edited text can cause any error
        return []


def _storage(path):
    """Return the file or folder to open for a user's path; raise BagError if it is neither."""
    if not path.exists():
        raise BagError(f'there is no recording {path}')
    if path.suffix == '.bag':
        raise BagError(f'{path} is a ROS 1 bag; convert it first: rosbags-convert --src {path} '
                       f'--dst {path.with_suffix("")}')
    if path.is_dir() and not is_recording(path):
        raise BagError(f'{path} is no recording: it has no metadata.yaml; restore it with '
                       f'"ros2 bag reindex {path}"')
    if path.is_file() and path.name == METADATA:
        return path.parent
    if path.is_file() and not _is_storage(path):
        raise BagError(f'{path} is no recording; give a rosbag2 folder, an .mcap or a .db3 file')
    return path


def _is_storage(path):
    return Path(path.name.removesuffix('.zstd')).suffix.lower() in ENDINGS


def is_recording(folder) -> bool:
    """Return whether a folder holds what rosbag2 wrote, if only the files of the messages."""
    return (folder / METADATA).exists() or bool(_storage_files(folder))


def _storage_files(folder):
    """Return the storage files of a folder in numerical order: a_2 before a_10."""
    return sorted((p for p in folder.iterdir() if p.is_file() and _is_storage(p)), key=lambda p: [
        int(part) if part.isdigit() else part for part in re.split(r'(\d+)', p.name)])


def _metadata(folder):
    """Read metadata.yaml; empty if a killed recorder left none."""
    if not (folder / METADATA).exists():
        return {}
    return yaml.safe_load((folder / METADATA).read_text())['rosbag2_bagfile_information']


def _files(folder, metadata):
    """Return the files listed in metadata.yaml, or those present if they were renamed."""
    listed = [folder / Path(name).name for name in metadata.get('relative_file_paths') or ()]
    missing = [file.name for file in listed if not file.exists()]
    if listed and not missing:
        return listed
    found = _storage_files(folder)
    names = sorted({re.sub(r'_\d+$', '', file.name.split('.')[0]) for file in found})
    if not listed and len(names) > 1:
        raise BagError(f'{folder} holds several recordings ({", ".join(names)}); name one of '
                       'them, or take all with bag ... --out DIR')
    if not found or 0 < len(missing) < len(listed):
        raise ValueError(f'files are missing: {", ".join(missing)}')
    return found


def _unpacked(file, stack):
    """Decompress a file of `ros2 bag record --compression-mode file` to a temporary file."""
    target = Path(stack.enter_context(TemporaryDirectory())) / file.stem
    with zstd.open(file, 'rb') as packed, open(target, 'wb') as plain:
        shutil.copyfileobj(packed, plain)
    return target
