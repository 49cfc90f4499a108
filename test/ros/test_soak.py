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
"""The soak test: what it measures, when it fails, and a run of seconds through the real node."""
import json
import os

import numpy as np
import pytest
from sample_recordings import cloud_bag

from steer_depth_ros.cli import main
from steer_depth_ros.commands import soak
from steer_depth_ros.recordings import bag
from steer_depth_ros.ros.tools.soak_report import draw, judge, sample_process, summarise

SECONDS, RATE = 300, 10


def report(latency_ms=lambda t: 40.0, dropped=(), left_out=(), began=1000.0, seconds=SECONDS,
           **series):
    """Make the report of a run of five minutes; series: name to a function of the second."""
    stamps = range(seconds * RATE)
    log = {'began': began, 'left_out': list(left_out),
           'published': {str(s): began + s / RATE for s in stamps},
           'answered': {str(s): began + s / RATE + latency_ms(s / RATE) / 1e3 for s in stamps
                        if s not in {*dropped, *left_out}}}
    steady = {'pss_mb': lambda t: 400.0, 'rss_mb': lambda t: 500.0,
              'own_mb': lambda t: 300.0, 'handles': lambda t: 23, 'threads': lambda t: 16}
    samples = [{'t': began + t, **{name: f(t) for name, f in {**steady, **series}.items()}}
               for t in range(-5, seconds)]
    return summarise(samples, log)


def test_a_steady_run_passes():
    steady = report()
    assert judge(steady) == [] and steady['dropped'] == 0
    assert steady['frames'] == SECONDS * RATE
    assert steady['rate_hz'] == pytest.approx(RATE, rel=0.01)
    assert steady['latency_p50_ms'] == pytest.approx(40)
    assert len(steady['series']['t']) == len(steady['series']['p99_ms']) == SECONDS


def test_the_first_minute_may_grow_and_be_slow():
    assert judge(report(latency_ms=lambda t: 400.0 if t < 50 else 40.0,
                        rss_mb=lambda t: 200.0 + 4 * min(t, 50))) == []


def test_omitted_depth_does_not_count_as_dropped():
    left_out = range(0, SECONDS * RATE, 7)
    found = report(left_out=left_out)
    assert judge(found) == [] and found['left_out'] == len(left_out)


@pytest.mark.parametrize('change, words', [
    ({'rss_mb': lambda t: 400 + 0.02 * t}, 'memory grew by 2.00 MB per 1000 frames'),
    ({'latency_ms': lambda t: 40 + 0.1 * t}, 'latency (p99) rose from'),
    ({'dropped': [700]}, '1 of 3000 frames were dropped'),
    ({'dropped': range(SECONDS * RATE)}, 'answered no frame'),
    ({'handles': lambda t: 23 + t // 30}, 'open handles grew'),
    ({'threads': lambda t: 16 + (t > 200)}, 'open threads grew from 16 to 17')])
def test_each_growth_fails_the_run(change, words):
    found = judge(report(**change))
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize('seconds, failures', [(60, 0), (179, 0), (181, 3)])
def test_growth_is_judged_from_three_minutes_on(seconds, failures):
    grown = report(seconds=seconds, latency_ms=lambda t: 40 + t, rss_mb=lambda t: 400 + t,
                   handles=lambda t: 23 + t // 10)
    assert len(judge(grown)) == failures
    assert '1 of 600 frames were dropped' in judge(report(seconds=60, dropped=[5]))[0]


def test_growth_within_the_limit_passes():
    assert judge(report(rss_mb=lambda t: 400 + 0.008 * t,
                        latency_ms=lambda t: 40 + 0.02 * t)) == []


def test_the_plot_shows_every_series():
    plain, grown = draw(report()), draw(report(rss_mb=lambda t: 400 + t, dropped=[5]))
    assert plain.shape == grown.shape and plain.dtype == np.uint8
    rows = np.flatnonzero((plain != grown).any(axis=(1, 2)))
    assert rows.min() < 60 and (rows > 750).any()  # the title, and the last of the plots


def test_this_process_is_measured():
    sample = sample_process(os.getpid())
    assert 10 < sample['own_mb'] < sample['pss_mb'] <= sample['rss_mb']
    with open(os.devnull):
        assert sample_process(os.getpid())['handles'] == sample['handles'] + 1


def test_messages_get_new_stamps_and_nothing_else(tmp_path):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from steer_depth_ros.ros.tools.soak_player import read_pairs, restamped
    with bag.BagReader(cloud_bag(tmp_path / 'a.mcap')) as recording:
        topics = '/camera/image', '/lidar/points', '/camera/camera_info'
        pairs = list(read_pairs(recording, *topics, 0.05))
        assert len(pairs) == 3
        for raw, topic in zip(pairs[0], topics):
            kind = recording.topics[topic]
            again = restamped(raw, 1_700_000_000_123_456_789)
            assert bag.cdr_stamp_ns(again) == 1_700_000_000_123_456_789
            assert again[12:] == raw[12:] and bag.decode(again, kind, topic)


def test_frames_through_the_real_node(tmp_path, monkeypatch, capsys):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    monkeypatch.setattr(soak, 'judge', lambda report: ['a failure'])
    recording = cloud_bag(tmp_path / 'in.mcap')
    status = main(['soak', '--bag', str(recording), '--minutes', '0.1', '--rate', '2',
                   '--leave-out', '4', '--json', str(tmp_path / 'soak.json'),
                   '--plot', str(tmp_path / 'soak.png')])
    said = capsys.readouterr().out
    assert status == 1 and 'soak failed: a failure' in said and 'too short to tell' in said
    found = json.loads((tmp_path / 'soak.json').read_text())
    assert found['failures'] == ['a failure']
    assert found['frames'] == 12 and found['left_out'] == 3 and found['dropped'] <= 2
    assert len(found['series']['pss_mb']) >= 4 and min(found['series']['pss_mb']) > 50
    assert (tmp_path / 'soak.png').stat().st_size > 1000


@pytest.mark.parametrize('arguments', [['--minutes', '0'], ['--minutes', '1', '--rate', '-1'],
                                       ['--minutes', '1', '--leave-out', '-2']])
def test_impossible_options_are_one_sentence(arguments, capsys):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    assert main(['soak', *arguments]) == 2
    assert 'must be positive' in capsys.readouterr().err
