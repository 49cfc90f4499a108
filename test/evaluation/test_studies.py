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
"""The tables of `steer_depth eval --ablation` and `--robustness`."""
import json

import pytest
import torch

from steer_depth_ros.cli import main
from steer_depth_ros.completion.completer import DepthCompleter
from steer_depth_ros.errors import WeightsError
from steer_depth_ros.evaluation.ablation import (
    ablation_methods,
    FAST,
    FIXED,
    format_ablation,
    LEARNED,
    quotient,
    STEERING,
    TUNED,
    TWICE,
)
from steer_depth_ros.evaluation.evaluate import evaluate, procedural_examples, Result
from steer_depth_ros.evaluation.metrics import NAMES
from steer_depth_ros.evaluation.robustness import (
    format_robustness,
    PATTERNS,
    RESIZED_PATTERNS,
    SIZE_FACTORS,
)
from steer_depth_ros.network.checkpoints import save_safetensors
from steer_depth_ros.network.refinement_net import RefinementNet
from steer_depth_ros.synthetic.procedural import ProceduralFrames

SMALL = ['--dataset', 'procedural', '--size', '80x64', '--device', 'cpu']


def run(tmp_path, *arguments):
    path = tmp_path / 'figures.json'
    assert main(['eval', *SMALL, *arguments, '--json', str(path)]) == 0
    return json.loads(path.read_text())


def test_ablation_has_every_step_of_the_method(tmp_path, capsys):
    study = run(tmp_path, '--ablation', '--limit', '2', '--seed', '77')
    assert study['study'] == 'ablation' and study['seed'] == 77
    figures = {result['method']: result for result in study['results']}
    guide = '  + color and depth guide, order'
    assert list(figures) == [
        'fixed kernels, order 0', FIXED, 'fixed kernels, order 2',
        'image-structure kernels, order 1', f'{guide} 0', f'{guide} 1', f'{guide} 2',
        TUNED, TWICE, STEERING, FAST, LEARNED]
    assert all(f['frames'] == 2 and f['coverage'] == 1 for f in figures.values())
    guided = figures['  + color and depth guide, order 1']['mae']
    assert figures[LEARNED]['mae'] < guided < 0.95 * figures[FIXED]['mae']
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + len(figures)
    assert ' 1.000' in next(line for line in table if line.startswith(FIXED))


def test_a_step_is_the_preset_steering():
    _, example = next(procedural_examples(ProceduralFrames(1, 77, (64, 80)), ['random:300']))
    step = ablation_methods()[STEERING]
    depth, _ = step(example.image, example.uv, example.sparse)
    preset = DepthCompleter('steering', 'cpu', reach=1000).complete(
        example.image, example.uv, example.sparse)
    assert abs(depth / preset.depth - 1).max() < 1e-5


def test_the_second_pass_pays():
    methods = ablation_methods()
    examples = procedural_examples(ProceduralFrames(8, 79, (120, 160)), ['random:500'])
    once, twice = evaluate({name: methods[name] for name in (TUNED, TWICE)}, examples)
    assert quotient(twice, once, 'mae') < 0.99


def test_second_order_tv_pays():
    methods = ablation_methods()
    examples = procedural_examples(ProceduralFrames(6, 79, (240, 320)), ['random:200'])
    twice, refined = evaluate({name: methods[name] for name in (TWICE, STEERING)}, examples)
    assert quotient(refined, twice, 'mae') < 0.98 and quotient(refined, twice, 'rmse') < 0.97


def test_ablation_takes_weights_of_a_refinement_alone(tmp_path):
    save_safetensors(tmp_path / 'w.safetensors', {'x': torch.zeros(1)}, 'reference', {})
    with pytest.raises(WeightsError, match="of 'reference', but only those of refinement_net can"):
        ablation_methods(tmp_path / 'w.safetensors')


def test_ablation_takes_weights(tmp_path):
    net = RefinementNet(channels=(8, 8))  # its last layer is zero
    save_safetensors(tmp_path / 'w.safetensors', net.state_dict(), 'refinement_net', net.config)
    study = run(tmp_path, '--ablation', '--limit', '1', '--weights',
                str(tmp_path / 'w.safetensors'))
    fast, learned = study['results'][-2:]
    assert (fast['method'], learned['method']) == (FAST, LEARNED)
    assert learned['mae'] == pytest.approx(fast['mae'], rel=1e-4)


def test_ablation_refuses_weights_of_another_network(tmp_path, capsys):
    path = tmp_path / 'reference.safetensors'
    save_safetensors(path, {'a': torch.zeros(1)}, 'reference', {})
    assert main(['eval', *SMALL, '--ablation', '--weights', str(path)]) == 2
    assert "holds weights of 'reference'" in capsys.readouterr().err


def test_robustness_covers_the_conditions(tmp_path, capsys):
    study = run(tmp_path, '--robustness', '--limit', '1', '--preset', 'steering,learned')
    conditions = [*PATTERNS, *(f'{p}, {f} size' for f in SIZE_FACTORS for p in RESIZED_PATTERNS)]
    for preset in ('steering', 'learned'):
        assert [r['pattern'] for r in study['results'] if r['method'] == preset] == conditions
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith(('random', 'lidar'))]) == len(conditions)
    assert lines[-1].startswith('worse than steering: ')


def results(method, *maes):
    result = Result(method, 'random:5', seconds=[0.1])
    for mae in maes:
        result.frames.append({**dict.fromkeys(NAMES), 'samples': 5, 'mae': mae, 'rmse': mae})
    return result


def test_quotients_count_near_and_far_frames_alike():
    assert quotient(results('a', 0.1, 20.0), results('b', 0.2, 10.0), 'mae') == pytest.approx(1)
    assert quotient(results('a', 1.0, None), results('b', 2.0, 3.0), 'mae') == pytest.approx(0.5)
    assert '0.500' in format_ablation([results(FIXED, 2.0), results('a', 1.0)])[2]


def test_robustness_names_where_a_preset_is_worse():
    examples = list(procedural_examples(ProceduralFrames(1, 77, (64, 80)), ['random:50']))

    def good(image, uv, depth):
        return examples[0][1].truth * 1.01, None

    def bad(image, uv, depth):
        return examples[0][1].truth * 1.02, None

    lines = format_robustness(evaluate({'good': good, 'bad': bad}, examples))
    assert lines[-1] == 'worse than good: bad with random:50'
    assert lines[1].split()[-2:] == ['1.000', '2.000']


@pytest.mark.parametrize('arguments, message', [
    (['--dataset', 'frames', '--data-dir', '.', '--ablation'], '--ablation needs --dataset'),
    ([*SMALL, '--robustness', '--samples', '50'], 'has its own patterns'),
    ([*SMALL, '--ablation', '--sheet', 'x.png'], 'gives a table only'),
    ([*SMALL, '--ablation', '--weights', 'nowhere.safetensors'], 'nowhere.safetensors')])
def test_bad_options_are_one_sentence(arguments, message, capsys):
    assert main(['eval', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error
