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
"""`steer_depth view`: what a file for Rerun holds, and what is said where it cannot be made."""
import sys

import numpy as np
import pytest
from sample_recordings import cloud_bag, cloud_frames, PlaneCompleter

from steer_depth_ros.cli import main
from steer_depth_ros.recordings.bag_tools import complete_bag

COUNT = 3


@pytest.fixture(scope='module')
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp('view')
    source = cloud_bag(folder / 'source.mcap', COUNT)
    complete_bag(source, folder / 'completed.mcap', PlaneCompleter(), keep_inputs=True)
    return source, folder / 'completed.mcap'


def view(*argv):
    return main(['view', *map(str, argv)])


def held(path):
    """Read a file for Rerun: {entity: {column: values}}, and the stamps of each entity."""
    chunk_module = pytest.importorskip('rerun.chunk', reason='this rerun is too old to read')
    columns, stamps = {}, {}
    for chunk in chunk_module.RrdReader(path).stream():
        batch = chunk.to_record_batch()
        entity = chunk.entity_path
        for name, values in zip(batch.schema.names, batch.columns):
            columns.setdefault(entity, {}).setdefault(name, []).extend(values.to_pylist())
        if 'stamp' in batch.schema.names:
            column = batch.column(batch.schema.names.index('stamp'))
            stamps.setdefault(entity, []).extend(column.cast('int64').to_pylist())
    return columns, stamps


def test_a_recording_and_its_completed_one_share_a_time_line(recordings, tmp_path, capsys):
    pytest.importorskip('rerun', reason='rerun is not installed; pip install .[view]')
    path = tmp_path / 'deep' / 'drive.rrd'
    assert view(*recordings, '--save', path) == 0
    said = capsys.readouterr().out
    assert f'image {COUNT}, depth {COUNT}' in said and 'without measured points' not in said
    columns, stamps = held(path)
    expected = [recorded.frame.stamp_ns for recorded in cloud_frames(COUNT)]
    for entity in ('/camera/image', '/camera/image/measured', '/camera/depth', '/confidence',
                   '/points'):
        assert sorted(stamps[entity]) == expected, entity
    colors = [np.array(c) for c in columns['/points']['Points3D:colors'] if c]
    positions = [np.array(p) for p in columns['/points']['Points3D:positions'] if p]
    image = next(cloud_frames(1)).frame.image
    # The cloud has a point a pixel, at the depth of the wall, in the color of the image.
    assert len(colors[0]) == len(positions[0]) > 0.9 * image[..., 0].size
    assert np.allclose(positions[0][:, 2], positions[0][0, 2], atol=1e-3)
    first = int(colors[0][0])
    assert [first >> 24, first >> 16 & 255, first >> 8 & 255] in image.reshape(-1, 3).tolist()
    assert not list(path.parent.glob('*.partial'))


def test_a_completed_recording_alone_says_what_is_missing(recordings, tmp_path, capsys):
    pytest.importorskip('rerun', reason='rerun is not installed; pip install .[view]')
    assert view(recordings[1], '--save', tmp_path / 'c.rrd') == 0
    assert 'without measured points' in capsys.readouterr().out
    _, stamps = held(tmp_path / 'c.rrd')
    assert len(stamps['/camera/depth']) == len(stamps['/camera/image']) == COUNT
    assert '/camera/image/measured' not in stamps


def test_nothing_is_left_of_a_file_that_could_not_be_made(tmp_path, capsys):
    pytest.importorskip('rerun', reason='rerun is not installed; pip install .[view]')
    assert view(tmp_path / 'nowhere.mcap', '--save', tmp_path / 'n.rrd') == 2
    assert 'there is no recording' in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert view(tmp_path, '--save', '/proc/n.rrd') == 2
    assert 'cannot write /proc/n.rrd' in capsys.readouterr().err


def test_without_a_screen_it_says_what_to_do(recordings, monkeypatch, capsys):
    rerun = pytest.importorskip('rerun', reason='rerun is not installed; pip install .[view]')

    def flush(_):
        raise RuntimeError('gRPC has been unable to connect')

    monkeypatch.setattr(rerun.RecordingStream, 'spawn', lambda *_, **__: None)
    monkeypatch.setattr(rerun.RecordingStream, 'flush', flush)
    assert view(recordings[0]) == 2
    assert 'write a file with --save FILE.rrd' in capsys.readouterr().err


def test_without_rerun_it_says_how_to_install_it(recordings, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    assert view(recordings[0]) == 2
    assert 'pip install "steer_depth_ros[view]"' in capsys.readouterr().err
