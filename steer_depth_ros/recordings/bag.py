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
"""Files of rosbag2, sqlite3 or MCAP, read and written without a ROS installation."""
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import sqlite3
import struct
from typing import Any, Dict, Iterator, NamedTuple

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
from rosbags.typesys import get_typestore, Stores

from steer_depth_ros.errors import BagError, DiskFullError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
TF_MESSAGE = 'tf2_msgs/msg/TFMessage'
ENDINGS = {'.mcap': StoragePlugin.MCAP, '.db3': StoragePlugin.SQLITE3}
TYPES = get_typestore(Stores.ROS2_JAZZY)
RESERVE_BYTES = 4 * 2 ** 20  # enough to close a recording: the last chunk and the index
CHUNK_BYTES = 2 ** 20  # what the storage libraries hold back before they write, at most
FOREVER = QosTime(2147483647, 0)  # the largest that rosbag2 reads back
LATCHED = Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
              FOREVER, FOREVER, QosLiveliness.AUTOMATIC, FOREVER, False)


class Record(NamedTuple):
    """One message of a recording: `raw` is its CDR, `log_ns` when it was recorded."""

    topic: str
    log_ns: int
    raw: bytes


class BagReader:
    """
    A recording to read: a rosbag2 folder, or a single .mcap or .db3 file. A context manager.

    topics: message type of each topic that has messages.
    Raise BagError when it is missing, empty, truncated or damaged.
    """

    def __init__(self, path):
        self.path = Path(path)
        source = _storage(self.path)
        with self._readable():
            self._reader = Reader(source)
            self._reader.open()
            if not all(isinstance(name, str) for c in self._reader.connections
                       for name in (c.topic, c.msgtype)):
                raise ValueError('a topic without name or type')
            if not all(isinstance(c.msgcount, int) for c in self._reader.connections):
                raise ValueError('a topic whose number of messages is no number')
        used = [c for c in self._reader.connections if c.msgcount]
        self.topics: Dict[str, str] = {c.topic: c.msgtype for c in used}
        self.counts: Dict[str, int] = {}
        for connection in used:
            self.counts[connection.topic] = (self.counts.get(connection.topic, 0)
                                             + connection.msgcount)
        if not used:
            self.close()
            raise BagError(f'the recording {path} is empty: it holds no messages; record again')

    def messages(self, *topics) -> Iterator[Record]:
        """Give the messages of some topics (of all without arguments) in recorded order."""
        chosen = [c for c in self._reader.connections if not topics or c.topic in topics]
        if not chosen:
            return
        with self._readable():
            for connection, log_ns, raw in self._reader.messages(chosen):
                if not (isinstance(raw, (bytes, memoryview)) and isinstance(log_ns, int)):
                    raise ValueError('a message that is no bytes')
                yield Record(connection.topic, log_ns, raw)

    def at(self, topic, log_ns, stamp_ns) -> Record:
        """Find the message of a topic that was recorded at `log_ns` and carries this stamp."""
        chosen = [c for c in self._reader.connections if c.topic == topic]
        with self._readable():
            for _, _, raw in self._reader.messages(chosen, log_ns, log_ns + 1):
                if cdr_stamp_ns(raw) == stamp_ns:
                    return Record(topic, log_ns, raw)
        raise BagError(f'the recording {self.path} has changed: the message of {topic} at '
                       f'{log_ns} ns is gone; start again')

    def decode(self, record) -> Any:
        """Decode the message of a record."""
        return decode(record.raw, self.topics[record.topic], record.topic)

    def first(self, topic) -> Any:
        """Decode the first message of a topic."""
        record = next(self.messages(topic), None)
        if record is None:
            raise BagError(f'the recording {self.path} lists messages of {topic} but holds none; '
                           'restore it with "ros2 bag reindex"')
        return self.decode(record)

    def close(self):
        self._reader.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @contextmanager
    def _readable(self):
        """Turn whatever a damaged file causes inside the storage libraries into a BagError."""
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


class BagWriter:
    """
    A recording to write: a single .mcap or .db3 file by the ending, else a folder with sqlite3.

    A context manager; the target appears when it closes, and not at all after an error. Where
    the disk is full, write() raises DiskFullError before anything is damaged, and what was
    written until then is closed and kept.
    overwrite: replace what is there, else raise BagError.
    """

    def __init__(self, path, overwrite=False):
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f'{self.path} exists already; choose another name, remove it or '
                           'pass --overwrite')
        self._partial = self.path.parent / f'.{self.path.name}.partial'
        self._connections: Dict[str, Any] = {}
        plugin = ENDINGS.get(self.path.suffix, StoragePlugin.SQLITE3)
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._writer = Writer(self._partial / self.path.name, version=9,
                                  storage_plugin=plugin)
            self._writer.open()
            # Room to close the recording in, which no other program can take.
            with open(self._partial / 'reserve', 'wb') as reserve:
                os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise BagError(f'cannot write {self.path}: {error.strerror}') from None

    def add_topic(self, topic, msgtype):
        """Declare a topic; static transforms are marked as latched."""
        qos = [LATCHED] if topic.endswith('/tf_static') else []
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


def decode(raw, msgtype, topic):
    """Decode CDR; BagError naming the topic when the type is unknown or the bytes are damaged."""
    try:
        return TYPES.deserialize_cdr(raw, msgtype)
    except Exception as error:  # struct, index, unicode, ...: whatever damaged bytes lead to
        raise BagError(f'a message of {topic} ({msgtype}) cannot be decoded: '
                       f'{error or type(error).__name__}; record again') from None


def build(msgtype, stamp_ns, frame_id, fields) -> Any:
    """Make a message with a header from the plain fields that ros/messages.py gives."""
    fields = {name: _as_rosbags(name, value) for name, value in fields.items()}
    if msgtype == CAMERA_INFO:
        roi = TYPES.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        fields = {'binning_x': 0, 'binning_y': 0, 'roi': roi, **fields}
    return TYPES.types[msgtype](header=header(stamp_ns, frame_id), **fields)


def header(stamp_ns, frame_id) -> Any:
    """Make a std_msgs/Header."""
    stamp = TYPES.types['builtin_interfaces/msg/Time'](stamp_ns // 10 ** 9, stamp_ns % 10 ** 9)
    return TYPES.types['std_msgs/msg/Header'](stamp, frame_id)


def transform_message(parent, child, stamp_ns, xyz, quaternion) -> Any:
    """Make a TFMessage with one transform; quaternion is (x, y, z, w)."""
    geometry = 'geometry_msgs/msg/'
    transform = TYPES.types[geometry + 'Transform'](
        TYPES.types[geometry + 'Vector3'](*map(float, xyz)),
        TYPES.types[geometry + 'Quaternion'](*map(float, quaternion)))
    stamped = TYPES.types[geometry + 'TransformStamped'](
        header(stamp_ns, parent), child, transform)
    return TYPES.types[TF_MESSAGE]([stamped])


def cdr_stamp_ns(raw) -> int:
    """Read the stamp of a message with a header, decoding no more; BagError if it is too short."""
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


def _storage(path):
    """Find what to open for a path that a user gave."""
    if not path.exists():
        raise BagError(f'there is no recording {path}')
    if path.suffix == '.bag':
        raise BagError(f'{path} is a ROS 1 bag; convert it first: rosbags-convert --src {path} '
                       f'--dst {path.with_suffix("")}')
    if path.is_dir() and not (path / 'metadata.yaml').exists():
        # A recorder that was killed leaves its storage file but writes no metadata.
        files = sorted(p for p in path.iterdir() if p.suffix in ENDINGS)
        if len(files) != 1:
            raise BagError(f'{path} is no recording: it has no metadata.yaml; restore it with '
                           f'"ros2 bag reindex {path}"')
        return files[0]
    if path.is_file() and path.suffix not in ENDINGS:
        raise BagError(f'{path} is no recording; give a rosbag2 folder, an .mcap or a .db3 file')
    return path
