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
"""One step of training: schedule, AdamW, clipping, averaged weights, bfloat16, what it reports."""
from itertools import count
import re
import types

import pytest
import torch

from steer_depth_ros.synthetic.cached import RenderedFrames
from steer_depth_ros.training import trainer as trainer_module
from steer_depth_ros.training.trainer import learning_rate, Trainer, TrainingConfig, WeightAverage

SMALL = {'channels': [8, 8, 8], 'details': 8}


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    return RenderedFrames(tmp_path_factory.mktemp('frames'), 1, 1, seed=5, size=(64, 80))


def trainer(data, folder, **changes):
    config = {'steps': 6, 'batch': 1, 'warmup': 0, 'report': 2, 'model': SMALL, **changes}
    return Trainer(TrainingConfig(**config), data, folder, say=lambda _: None)


def examples(trainer):
    return next(iter(trainer.steps()))


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_the_rate_warms_up_and_falls_along_a_cosine(scene, tmp_path):
    config = TrainingConfig(steps=110, warmup=10, learning_rate=0.2)
    rates = [learning_rate(config, step) for step in range(111)]
    assert rates[0] == pytest.approx(0.02) and rates[10] == 0.2
    assert rates[60] == pytest.approx(0.2 * (0.01 + 0.99 / 2))
    assert rates[35] == pytest.approx(0.2 * (0.01 + 0.99 * (1 + 0.5 ** 0.5) / 2))
    assert rates[110] == pytest.approx(0.002)
    one = trainer(scene, tmp_path, warmup=4, learning_rate=0.1)
    one.train_step(examples(one))
    assert [group['lr'] for group in one.optimizer.param_groups] == [pytest.approx(0.025)]


def test_weights_decay_apart_from_the_gradient(scene, tmp_path):
    """AdamW: decay shrinks a weight by rate times decay, whatever its gradient is."""
    plain, decayed = (trainer(scene, tmp_path / str(decay), weight_decay=decay, learning_rate=0.01)
                      for decay in (0.0, 0.5))
    start = parameters(plain)
    for one in (plain, decayed):
        one.train_step(examples(one))
    torch.testing.assert_close(parameters(plain) - parameters(decayed), 0.01 * 0.5 * start,
                               rtol=1e-3, atol=1e-6)
    assert start.abs().max() > 0.1 and not torch.equal(parameters(plain), start)


@pytest.mark.parametrize('clip', [1e-3, 1e9])
def test_gradients_are_clipped_as_one_vector(clip, scene, tmp_path):
    one = trainer(scene, tmp_path, clip=clip)
    one.train_step(examples(one))
    norm = torch.cat([p.grad.flatten() for p in one.model.parameters()]).norm().item()
    assert norm == pytest.approx(clip, rel=1e-2) if clip < 1 else 1e-2 < norm < clip


def test_a_gradient_that_is_not_finite_changes_no_weight(scene, tmp_path):
    one = trainer(scene, tmp_path)
    start, loss = parameters(one), one.loss

    def broken(frames):
        value, rows = loss(frames)
        return value * torch.nan, rows

    one.loss = broken
    one.train_step(examples(one))
    assert torch.equal(parameters(one), start) and one.step == 1


def test_the_average_follows_the_weights():
    model = torch.nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.5)
    expected = model.weight.item()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(step)
        model.num_batches_tracked.fill_(step)
        average.update(model)
        keep = min(0.5, step / (step + 10))  # the beginning is forgotten sooner
        expected = keep * expected + (1 - keep) * step
    assert average.state['weight'].item() == pytest.approx(expected)
    assert 27 < expected < 29 and average.state['num_batches_tracked'] == 29


def test_the_weights_that_are_used_are_the_average(scene, tmp_path):
    from safetensors.torch import load_file
    one = trainer(scene, tmp_path, average=0.9)
    one.run()
    used = load_file(tmp_path / 'weights.safetensors')
    assert all(torch.equal(used[name], value) for name, value in one.average.state.items())
    assert not torch.equal(used['last.weight'], one.model.state_dict()['last.weight'])


def test_bfloat16_is_for_convolutions_alone(scene, tmp_path):
    plain, mixed = (trainer(scene, tmp_path / str(amp), amp=amp) for amp in (False, True))
    seen = []
    mixed.model.stem.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    for one in (plain, mixed):  # the head begins at zero: what leads to it counts from here on
        one.train_step(examples(one))
    losses = [one.train_step(examples(one))[0] for one in (plain, mixed)]
    assert seen == [torch.bfloat16] * 2
    assert all(p.dtype == torch.float32 for p in mixed.model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[0] != losses[1]


def test_progress_shows_the_time_left(scene, tmp_path, monkeypatch):
    minutes = count()
    monkeypatch.setattr(trainer_module, 'time',
                        types.SimpleNamespace(monotonic=lambda: 60 * next(minutes)))
    lines = []
    trainer(scene, tmp_path).run(progress=lines.append)
    # The clock is read once at the start and once a report, every other step.
    assert [re.sub(r'loss .* estimate, ', '', line) for line in lines] == [
        'step 2/6 30.00 s per step, 2 min left', 'step 4/6 30.00 s per step, 1 min left',
        'step 6/6 30.00 s per step, 0 min left']


def test_tensorboard_reads_what_was_written(scene, tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator',
                                      reason='tensorboard is not installed')
    trainer(scene, tmp_path).run()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert {'loss', 'mae', 'rmse', 'rate'} <= set(events.Tags()['scalars'])
    assert [event.step for event in events.Scalars('loss')] == [2, 4, 6]
    picture = events.Images('frame 0')[0]
    assert (picture.width, picture.height, picture.step) == (4 * 80, 64, 2)
