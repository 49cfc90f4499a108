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
Read MCAP files of any writer: with or without index and chunks, also with other messages.

The reader of the rosbags package reads only those of rosbag2. Format: mcap.dev/spec.
"""
from binascii import crc32
from collections import Counter
import heapq
from io import BytesIO
import os
import struct
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

MAGIC = b'\x89MCAP0\r\n'
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = range(1, 7)
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0b, 0x0f
RECORD, TAIL = struct.Struct('<BQ'), struct.Struct('<BQQQI8s')  # TAIL: the footer and MAGIC
MESSAGE_HEAD = struct.Struct('<HIQQ')
DECOMPRESSORS: Dict[str, Any] = {'zstd': ZstdDecompressor, 'lz4': LZ4FrameDecompressor}


class Channel(NamedTuple):
    """A channel: its topic, schema name and message encoding."""

    topic: str
    schema: str
    encoding: str
    metadata: Dict[str, str]


class Piece(NamedTuple):
    """A chunk, or a message outside of chunks: its time range, position and channels."""

    first_ns: int
    last_ns: int
    offset: int
    channels: Optional[Set[int]]  # None: unknown


class McapFile:
    """
    Reads an MCAP file.

    channels: Channel by id. counts: number of messages by channel id.
    A damaged file raises ValueError, struct.error, EOFError, OSError or others.
    """

    def __init__(self, path):
        self._file = open(path, 'rb')
        try:
            self.channels: Dict[int, Channel] = {}
            self.counts: Counter = Counter()
            self._schemas: Dict[int, str] = {}
            self._pieces: List[Piece] = []
            self._read_structure()
        except BaseException:
            self._file.close()
            raise

    def messages(self, ids, start_ns=0, stop_ns=2 ** 64) -> Iterator[Tuple[int, int, bytes]]:
        """Yield (channel id, log time, data) of these channels, sorted by log time."""
        ids = set(ids)
        waiting: List[Tuple[int, int, int, int, bytes]] = []
        for number, piece in enumerate(self._pieces):
            if piece.last_ns < start_ns or piece.first_ns >= stop_ns or (
                    piece.channels is not None and not piece.channels & ids):
                continue
            while waiting and waiting[0][0] < piece.first_ns:
                yield self._told(heapq.heappop(waiting))
            for place, (channel, log_ns, data) in enumerate(self._content(piece)):
                if channel in ids and start_ns <= log_ns < stop_ns:
                    heapq.heappush(waiting, (log_ns, number, place, channel, data))
        while waiting:
            yield self._told(heapq.heappop(waiting))

    def close(self):
        self._file.close()

    @staticmethod
    def _told(entry):
        log_ns, _, _, channel, data = entry
        return channel, log_ns, data

    def _read_structure(self):
        size = os.fstat(self._file.fileno()).st_size
        if self._file.read(len(MAGIC)) != MAGIC:
            raise ValueError('it does not start like an MCAP file')
        if next(_records(self._file, size))[0] != HEADER:
            raise ValueError('its first record is not a header')
        begin = self._file.tell()
        end = size - TAIL.size
        self._file.seek(max(end, begin))
        kind, length, summary, _, _, magic = TAIL.unpack(
            self._file.read().rjust(TAIL.size, b'\0')[-TAIL.size:])
        if (kind, length, magic) != (FOOTER, 20, MAGIC):
            raise ValueError('its end is missing')
        if not summary or not self._read_summary(summary, end):
            self._scan(begin, summary or end)
        self._pieces.sort(key=lambda piece: piece.first_ns)

    def _read_summary(self, begin, end):
        """Read the index; return whether it is complete."""
        self._file.seek(begin)
        counted = False
        for kind, content in _records(self._file, end):
            if kind in (SCHEMA, CHANNEL):
                self._note(kind, content)
            elif kind == CHUNK_INDEX:
                first, last, offset, _ = struct.unpack_from('<QQQQ', content)
                (length,) = struct.unpack_from('<I', content, 32)
                at = (channel for channel, _ in struct.iter_unpack('<HQ', content[36:36 + length]))
                self._pieces.append(Piece(first, last, offset, set(at) or None))
            elif kind == STATISTICS:
                self.counts.update(dict(struct.iter_unpack('<HQ', content[46:])))
                counted = True
        indexed = set().union(*(piece.channels or () for piece in self._pieces))
        return counted and bool(self._pieces) and bool(self.channels) and (
            {*indexed, *self.counts} <= {*self.channels})

    def _scan(self, begin, end):
        """Scan a file without index."""
        self.counts.clear()
        self._pieces.clear()
        self._file.seek(begin)
        while (offset := self._file.tell()) < end:
            kind, content = next(_records(self._file, end))
            if kind == DATA_END:
                return
            if kind == CHUNK:
                inside = list(_records(BytesIO(_unpacked(content)), None))
                times = [self._count(data) for record, data in inside if record == MESSAGE]
                for record, data in inside:
                    self._note(record, data)
                if times:
                    self._pieces.append(Piece(min(times), max(times), offset, None))
            elif kind == MESSAGE:
                log_ns = self._count(content)
                channel = MESSAGE_HEAD.unpack_from(content)[0]
                self._pieces.append(Piece(log_ns, log_ns, offset, {channel}))
            else:
                self._note(kind, content)

    def _count(self, content):
        channel, _, log_ns, _ = MESSAGE_HEAD.unpack_from(content)
        self.counts[channel] += 1
        return log_ns

    def _note(self, kind, content):
        """Store a schema or a channel."""
        if kind == SCHEMA:
            (number,) = struct.unpack_from('<H', content)
            self._schemas[number], _ = _text(content, 2)
        elif kind == CHANNEL:
            number, schema = struct.unpack_from('<HH', content)
            topic, at = _text(content, 4)
            encoding, at = _text(content, at)
            (length,) = struct.unpack_from('<I', content, at)
            at, end, metadata = at + 4, at + 4 + length, {}
            while at < end:
                key, at = _text(content, at)
                metadata[key], at = _text(content, at)
            self.channels[number] = Channel(topic, self._schemas.get(schema, ''), encoding,
                                            metadata)

    def _content(self, piece):
        """Yield (channel id, log time, data) of all messages of a piece."""
        self._file.seek(piece.offset)
        kind, content = next(_records(self._file, None))
        if kind == MESSAGE:
            records = [(kind, content)]
        elif kind == CHUNK:
            records = _records(BytesIO(_unpacked(content)), None)
        else:
            raise ValueError(f'there is no chunk at byte {piece.offset}')
        for kind, data in records:
            if kind == MESSAGE:
                channel, _, log_ns, _ = MESSAGE_HEAD.unpack_from(data)
                yield channel, log_ns, data[MESSAGE_HEAD.size:]


def _records(file, end):
    """Yield (kind, content) of each record up to a position or the end."""
    while end is None or file.tell() < end:
        head = file.read(RECORD.size)
        if not head and end is None:
            return
        kind, size = RECORD.unpack(head)
        content = file.read(size)
        if len(content) != size:
            raise EOFError(f'a record of {size} bytes ends after {len(content)}')
        yield kind, content


def _unpacked(content):
    """Return the decompressed records of a chunk after checking them."""
    _, _, size, checksum = struct.unpack_from('<QQQI', content)
    compression, at = _text(content, 28)
    (length,) = struct.unpack_from('<Q', content, at)
    packed = content[at + 8:at + 8 + length]
    if compression and compression not in DECOMPRESSORS:
        raise ValueError(f'its compression "{compression}" is unknown')
    data = packed
    if compression:
        data = DECOMPRESSORS[compression]().decompress(packed, max_length=size) if size else b''
    if len(data) != size or (checksum and crc32(data) != checksum):
        raise ValueError('a chunk is damaged')
    return data


def _text(content, at):
    """Return a string and the position after it."""
    (length,) = struct.unpack_from('<I', content, at)
    data = content[at + 4:at + 4 + length]
    if len(data) != length:
        raise EOFError(f'a text of {length} bytes ends after {len(data)}')
    return data.decode(), at + 4 + length
