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
"""The worker, the rates of the diagnostics, and the synchronisers of message_filters."""
from threading import Event
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import pytest

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.ros import diagnostics
from steer_depth_ros.ros.message_filters_sync import FilterSynchronizer
from steer_depth_ros.ros.worker import Worker

MS = 1_000_000


def test_the_latest_job_replaces_the_one_that_waits():
    begun, go, done = Event(), Event(), []

    def process(job):
        begun.set()
        go.wait(5)
        done.append(job)

    worker = Worker(process, pytest.fail)
    worker.submit(1)
    assert begun.wait(5)
    assert not worker.waiting()
    for job in (2, 3, 4):
        worker.submit(job)
    assert worker.waiting()
    go.set()
    while len(done) < 2:
        begun.wait(0.01)
    worker.stop()
    assert done == [1, 4] and worker.replaced == 2


def test_an_error_does_not_end_the_worker():
    errors, done = [], Event()
    worker = Worker(lambda job: done.set() if job else 1 / job, errors.append)
    worker.submit(0)
    while not errors:
        done.wait(0.01)
    worker.submit(1)
    assert done.wait(5)
    worker.stop()
    assert isinstance(errors[0], ZeroDivisionError)


def test_loss_is_seen_from_stamps_but_a_pause_is_none():
    def loss(stamps):
        meter = diagnostics.RateMeter()
        for stamp in stamps:
            meter.tick(stamp * MS)
        return meter.loss()

    regular = [i * 100 for i in range(40)]
    assert loss(regular) == 0.0
    assert loss([s for i, s in enumerate(regular) if i % 4]) == pytest.approx(0.25, abs=0.03)
    assert loss(regular + [s + 60_000 for s in regular]) == 0.0
    assert loss([i * i * 7 for i in range(40)]) == 0.0  # irregular by nature


def inputs(silent, publishers, info=True):
    rates = {name: SimpleNamespace(silent_for=lambda: silent, loss=lambda: 0.0)
             for name in ('image', 'depth', 'camera_info')}
    topics = {'image': '/image', 'depth': '/points', 'camera_info': '/camera_info'}
    return SimpleNamespace(rates=rates, topics=topics, info=info or None,
                           publishers=lambda name: publishers)


@pytest.mark.parametrize('silent, publishers, word', [
    (0.1, 1, None), (9.0, 0, 'nobody publishes /image'), (9.0, 1, 'fastdds_shm.xml')])
def test_silent_inputs_are_judged_with_a_remedy(silent, publishers, word):
    found = diagnostics.judge_inputs(inputs(silent, publishers), None)
    assert bool(found) == bool(word)
    if word:
        assert word in found[0][1] and found[0][0] == diagnostics.ERROR


def test_a_hint_of_the_synchroniser_is_a_warning():
    assert diagnostics.judge_inputs(inputs(0.1, 1), 'set time_offset_s') == [
        (diagnostics.WARN, 'set time_offset_s')]


def test_percentiles_and_repeated_problems():
    monitor = diagnostics.Monitor()
    for i in range(100):
        monitor.completed(i * 100 * MS, {'complete': float(i)})
    assert monitor.percentiles()['complete'] == pytest.approx((49.5, 98.01))
    assert [monitor.dropped('MessageError', 'bad') for _ in range(3)] == [True, False, False]
    assert monitor.drops['MessageError'] == 3 and monitor.problems() == ['bad']


def test_a_model_slower_than_the_sensors_is_told():
    monitor = diagnostics.Monitor()
    assert monitor.judge_speed(10, 1) == []
    (level, text), = monitor.judge_speed(20, 6)
    assert level == diagnostics.WARN and '5 of the last 10 pairs' in text
    assert monitor.judge_speed(21, 7) == []


class SimpleFilter:
    def registerCallback(self, callback, *args):  # noqa: N802
        self.callback = lambda msg: callback(msg, *args)

    def signalMessage(self, msg):  # noqa: N802
        self.callback(msg)


class TimeSynchronizer:
    """Pair equal stamps, as the real one does."""

    def __init__(self, filters, queue_size):
        self.kept = [{}, {}]
        for index, one in enumerate(filters):
            one.registerCallback(self.add, index)

    def registerCallback(self, callback):  # noqa: N802
        self.callback = callback

    def add(self, msg, index):
        self.kept[index][msg.header.stamp.sec] = msg
        stamp = msg.header.stamp.sec
        if all(stamp in kept for kept in self.kept):
            self.callback(*(kept.pop(stamp) for kept in self.kept))


def message(seconds):
    return SimpleNamespace(header=SimpleNamespace(
        stamp=SimpleNamespace(sec=seconds, nanosec=0)))


def test_message_filters_behind_the_same_interface():
    module = ModuleType('message_filters')
    module.SimpleFilter, module.TimeSynchronizer = SimpleFilter, TimeSynchronizer
    with patch.dict('sys.modules', {'message_filters': module}):
        sync = FilterSynchronizer('exact', 0.05, 10)
        assert sync.add_image(10**9, message(1)) == []
        image, depth = message(2), message(2)
        assert sync.add_depth(2 * 10**9, depth) == []
        pair, = sync.add_image(2 * 10**9, image)
        assert pair.image is image and pair.depth is depth and pair.image_ns == 2 * 10**9
        sync.reset()
        assert sync.add_depth(10**9, message(1)) == [] and sync.hint() is None
        assert sync.add_image(0, message(0)) == [] and sync.counts['image_unstamped'] == 1
    assert sync.counts['pairs'] == 1


def test_without_message_filters_the_mode_is_refused():
    with patch.dict('sys.modules', {'message_filters': None}):
        with pytest.raises(ConfigError, match='nearest'):
            FilterSynchronizer('approximate', 0.05, 10)
