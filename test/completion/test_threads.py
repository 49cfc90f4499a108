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
"""Completers in several threads give what they give one after the other, to the bit."""
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.evaluation.evaluate import procedural_examples
from steer_depth_ros.synthetic.procedural import ProceduralFrames

PRESETS = 'fast', 'steering', 'learned'


@pytest.fixture(scope='module')
def frames():
    """Return frames of different scenes, sizes and sensors."""
    return [(example.image, example.uv, example.sparse)
            for size, pattern in (((96, 128), 'random:400'), ((75, 101), 'lidar:32'),
                                  ((64, 80), 'depth:1'))
            for _, example in procedural_examples(ProceduralFrames(2, 5, size), [pattern])]


def same(results, expected):
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one.depth, other.depth)
        np.testing.assert_array_equal(one.confidence, other.confidence)


def run_together(*jobs):
    """Run the jobs in threads that begin at the same time; return their results."""
    begin = Barrier(len(jobs))

    def run(job):
        begin.wait(timeout=30)
        return job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [each.result() for each in [threads.submit(run, job) for job in jobs]]


@pytest.mark.parametrize('presets', [('fast', 'fast'), ('steering', 'steering'),
                                     ('fast', 'learned')])
def test_two_completers_in_two_threads(frames, presets):
    completers = [DepthCompleter(preset, 'cpu') for preset in presets]
    orders = frames, frames[::-1]  # so that different frames meet
    expected = [[completer.complete(*frame) for frame in order]
                for completer, order in zip(completers, orders)]
    found = run_together(*(
        lambda completer=completer, order=order: [
            completer.complete(*frame) for _ in range(3) for frame in order]
        for completer, order in zip(completers, orders)))
    for results, alone in zip(found, expected):
        same(results, 3 * alone)
        for result in results:
            assert {'operator', 'rest'} <= set(result.stages)
            assert min(result.stages.values()) >= 0


@pytest.mark.parametrize('preset', PRESETS)
def test_a_completer_in_a_thread_that_did_not_make_it(frames, preset):
    with ThreadPoolExecutor(1) as thread:
        completer = thread.submit(DepthCompleter, preset, 'cpu').result()
    expected = [completer.complete(*frame) for frame in frames]
    found, = run_together(lambda: [completer.complete(*frame) for frame in frames])
    same(found, expected)
