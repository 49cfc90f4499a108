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
import pytest
import torch

from steer_depth_ros.ops import timing
from steer_depth_ros.ops.timing import measured_stages, stage, waiting_for_device

GPU = torch.device('cuda')


@pytest.fixture
def waits(monkeypatch):
    seen: list = []
    monkeypatch.setattr(torch.cuda, 'synchronize', seen.append)
    return seen


def test_a_frame_is_not_stopped_to_measure_its_stages(waits):
    with measured_stages() as seconds, stage('rest'), stage('operator', GPU):
        pass
    assert set(seconds) == {'rest', 'operator'} and not waits


def test_benchmarks_wait_for_the_gpu_before_and_after_a_stage(waits):
    with waiting_for_device(), measured_stages(), stage('operator', GPU):
        assert waits == [GPU]
    assert waits == [GPU, GPU]
    with measured_stages(), stage('operator', GPU):
        pass
    assert len(waits) == 2


def test_the_time_of_an_inner_stage_counts_once(monkeypatch):
    monkeypatch.setattr(timing.time, 'perf_counter', iter(range(4)).__next__)
    with measured_stages() as seconds, stage('outer'), stage('inner'):
        pass
    assert seconds == {'inner': 1, 'outer': 2}
