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
"""What every target needs: bytes as fields, files in memory, and a mutator without atheris."""
import os
from pathlib import Path
import random
import shutil
import struct
import tempfile

SHARED_MEMORY = Path('/dev/shm')
TELLING = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


class Input:
    """Takes fields off the front of some bytes, which end in zeros as far as one reads."""

    def __init__(self, data):
        self._data = data

    def take(self, layout):
        """Unpack one `struct` layout."""
        size = struct.calcsize(layout)
        chunk, self._data = self._data[:size], self._data[size:]
        return struct.unpack(layout, chunk.ljust(size, b'\0'))

    def parts(self, count):
        """Split into `count` parts, each behind its 16 bit length."""
        found = []
        for _ in range(count):
            length, = self.take('<H')
            found.append(self._data[:length])
            self._data = self._data[length:]
        return found

    def rest(self):
        """Give what is left."""
        return self._data


def joined(*parts):
    """Write what `Input.parts` reads."""
    return b''.join(struct.pack('<H', len(part)) + part for part in parts)


class Scratch:
    """A folder in memory for targets that read files, made at its first use."""

    def __init__(self):
        self._folder = None

    def path(self, name):
        """Give a path in the folder."""
        if self._folder is None:
            place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
            self._folder = tempfile.TemporaryDirectory(prefix='steer_depth_fuzz_', dir=place)
        return Path(self._folder.name) / name

    def write(self, name, data):
        """Write a file and give its path."""
        path = self.path(name)
        path.write_bytes(data)
        return path

    def folder(self, name, **files):
        """Write a folder anew that holds these files: name to bytes, None for no file."""
        path = self.path(name)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for file, data in files.items():
            if data is not None:
                (path / file).write_bytes(data)
        return path


def mutants(seeds, count, seed=0):
    """Give the seeds, then changed copies of them, `count` inputs in all; the same every time."""
    rng = random.Random(seed)
    yield from seeds[:count]
    for _ in range(count - len(seeds)):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            _mutate(data, rng, seeds)
        yield bytes(data)


def _mutate(data, rng, seeds):
    kind, at = rng.randrange(7), rng.randrange(len(data) + 1)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at:at + 1] = bytes([rng.choice(TELLING) % 256])
    elif kind == 2:
        data[at:at + 4] = struct.pack(rng.choice('<>') + 'I', rng.choice(TELLING))
    elif kind == 3:
        del data[at:at + rng.choice((1, 2, 4, 16))]
    elif kind == 4:
        data[at:at] = data[at:at + rng.choice((1, 4, 16))]
    elif kind == 5:
        del data[at:]
    else:
        other = rng.choice(seeds)
        data[at:] = other[at:]
