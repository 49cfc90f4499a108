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
"""The worker, the rates of the diagnostics, and the synchronizers of message_filters."""
import sys
from threading import Event, Thread
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.ros import diagnostics, distro, remedies
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


def test_loss_is_measured_by_stamps_and_a_pause_is_not_loss():
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


@pytest.mark.parametrize('lost', [0.3, 0.6, 0.85])
@pytest.mark.parametrize('jitter_ms', [0, 5])
def test_even_heavy_loss_is_measured(monkeypatch, lost, jitter_ms):
    rng = np.random.default_rng(3)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(diagnostics.time, 'monotonic', lambda: clock.now)
    meter = diagnostics.RateMeter()
    for index in np.flatnonzero(rng.random(300) > lost).tolist():  # 10 Hz, half a minute
        clock.now = 0.1 * index
        meter.tick(round((100 * index + rng.normal(0, jitter_ms)) * MS))
    assert meter.loss() == pytest.approx(lost, abs=0.1)
    clock.now += 60.0
    assert meter.loss() == 0.0  # too long ago


def test_the_rate_can_be_read_while_another_thread_ticks():
    meter, stop, errors = diagnostics.RateMeter(), Event(), []

    def tick():
        try:
            for stamp in iter(int, None):
                meter.tick(stamp)
                if stop.is_set():
                    return
                if not meter.silent_for() < 5.0:
                    meter.clear()
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # change threads wherever that can happen
    threads = [Thread(target=tick) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for index in range(2000):
            meter.rate(), meter.loss(), meter.silent_for()
            if index % 100 == 0:
                meter.clear()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not errors


def test_a_recording_that_starts_over_keeps_its_rate_and_loses_nothing(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(diagnostics.time, 'monotonic', lambda: clock.now)
    meter = diagnostics.RateMeter()
    for index in range(40):
        clock.now = 0.1 * index
        meter.tick(index % 13 * 100 * MS)
        if index > 1:
            assert meter.rate() == pytest.approx(10.0) and meter.loss() == 0.0


def inputs(silent, publishers, info=True, loss=0.0, obstacle=None):
    rates = {name: SimpleNamespace(silent_for=lambda: silent, loss=lambda: loss)
             for name in ('image', 'depth', 'camera_info')}
    topics = {'image': '/image', 'depth': '/points', 'camera_info': '/camera_info'}
    return SimpleNamespace(rates=rates, topics=topics, info=info or None,
                           publishers=lambda name: publishers,
                           obstacle=lambda name: obstacle, remedy=lambda name: 'the remedy')


@pytest.mark.parametrize('silent, publishers, word', [
    (0.1, 1, None), (9.0, 0, 'nobody publishes /image'), (9.0, 1, 'the remedy')])
def test_silent_inputs_are_judged_with_a_remedy(silent, publishers, word):
    found = diagnostics.judge_inputs(inputs(silent, publishers), None)
    assert bool(found) == bool(word)
    if word:
        assert word in found[0][1] and found[0][0] == diagnostics.ERROR


def test_a_hint_of_the_synchronizer_is_a_warning():
    assert diagnostics.judge_inputs(inputs(0.1, 1), 'set time_offset_s') == [
        (diagnostics.WARN, 'set time_offset_s')]


def test_loss_is_reported_instead_of_a_hint():
    found = diagnostics.judge_inputs(inputs(0.1, 1, loss=0.4), 'set time_offset_s')
    assert [text for _, text in found] == ['40 % of /image get lost; the remedy',
                                           '40 % of /points get lost; the remedy']
    found = diagnostics.judge_inputs(inputs(9.0, 1, obstacle='another type'), 'set slop_s')
    assert [text for _, text in found] == ['another type', 'another type']


@pytest.mark.parametrize('middleware, words', [
    ('rmw_fastrtps_cpp', ['start its publisher with FASTRTPS_DEFAULT_PROFILES_FILE=/',
                          'config/fastdds_shm.xml', 'reliable']),
    ('rmw_cyclonedds_cpp', ['net.core.rmem_max', 'CYCLONEDDS_URI']),
    ('rmw_zenoh_cpp', ['ZENOH_CONFIG_OVERRIDE', 'shared_memory']),
    ('rmw_of_tomorrow', ['rmw_of_tomorrow'])])
def test_the_remedy_is_that_of_the_middleware(monkeypatch, middleware, words):
    monkeypatch.setattr(distro.shutil, 'disk_usage',
                        lambda path: SimpleNamespace(total=2 ** 34, free=2 ** 33))
    told = remedies.against_loss(middleware, False, {'ROS_DISTRO': 'humble'})
    assert all(word in told for word in words), told
    assert 'let it publish reliable' in told
    told_reliable = remedies.against_loss(middleware, True, {})
    assert 'reliable' not in told_reliable and 'at least 5 messages' in told_reliable
    if middleware != 'rmw_fastrtps_cpp':
        assert 'fastdds' not in told


def test_the_remedy_in_a_container_is_its_shared_memory(monkeypatch):
    sizes = SimpleNamespace(total=64 * 2 ** 20, free=60 * 2 ** 20)
    monkeypatch.setattr(distro.shutil, 'disk_usage', lambda path: sizes)
    told = remedies.against_loss('rmw_fastrtps_cpp', True, {})
    assert '/dev/shm has 60 MB' in told and '--shm-size=1g or --ipc=host' in told
    sizes.total, sizes.free = 512 * 2 ** 20, 200 * 2 ** 20
    assert '--shm-size' in remedies.against_loss('rmw_fastrtps_cpp', True, {})
    held = {'FASTDDS_DEFAULT_PROFILES_FILE': 'fastdds_shm.xml', 'ROS_DISTRO': 'lyrical'}
    told = remedies.against_loss('rmw_fastrtps_cpp', True, held)  # this node has its share
    assert 'start its publisher with FASTDDS_DEFAULT_PROFILES_FILE=' in told


def test_percentiles_and_repeated_problems():
    monitor = diagnostics.Monitor()
    for i in range(100):
        monitor.completed(i * 100 * MS, {'complete': float(i)})
    assert monitor.percentiles()['complete'] == pytest.approx((49.5, 98.01))
    assert [monitor.dropped('MessageError', 'bad') for _ in range(3)] == [True, False, False]
    assert monitor.drops['MessageError'] == 3 and monitor.problems() == ['bad']


def test_a_model_slower_than_the_sensors_is_reported():
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
