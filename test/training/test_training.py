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
"""Training learns, resumes bit for bit after a kill, and splits steps among processes."""
import json
import os
from pathlib import Path
import pickle
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from safetensors.torch import load_file
from sample_datasets import write_frame, write_kitti_selection, write_nyu
from sample_recordings import cloud_frames, depth_frames
import torch
import torch.distributed as dist
import yaml

from steer_depth_ros.cli import main
from steer_depth_ros.datasets.bag_dataset import BagFrames
from steer_depth_ros.errors import ConfigError, DatasetError, WeightsError
from steer_depth_ros.recordings.bag_tools import frames_to_bag
from steer_depth_ros.synthetic.cached import RenderedFrames
from steer_depth_ros.training.data import Mixture
from steer_depth_ros.training.trainer import choose, Trainer, TrainingConfig

SMALL = {'channels': [8, 8, 8], 'details': 8}
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    """Fix the order of sums: another would end in other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Two small scenes, rendered once."""
    data = RenderedFrames(tmp_path_factory.mktemp('frames'), 2, 2, seed=5, size=(64, 80))
    for scene in range(2):
        data.render(scene)
    return data


def small(**changes):
    return TrainingConfig(**{**dict(steps=6, batch=2, warmup=1, report=2, checkpoint=2,
                                    model=SMALL), **changes})


def silent(_):
    pass


def trained(config, data, folder, seconds=None):
    trainer = Trainer(config, data, folder, say=silent)
    trainer.run(seconds)
    return trainer


def write_config(path, **changes):
    config = {'steps': 6, 'batch': 2, 'warmup': 1, 'report': 2, 'checkpoint': 2, 'model': SMALL}
    path.write_text(yaml.safe_dump({**config, **changes}))
    return str(path)


def rendered_entry(scenes):
    return {'dataset': 'rendered', 'frames': 2, 'patterns': 2, 'seed': 5, 'size': '80x64',
            'folder': str(scenes.folder)}


def weights(folder):
    return load_file(folder / 'weights.safetensors')


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_loss_falls(scenes, tmp_path):
    one_frame = torch.utils.data.Subset(scenes, [0])
    config = small(steps=45, batch=1, warmup=5, report=5, learning_rate=5e-3)
    trained(config, one_frame, tmp_path)
    log = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in log] == list(range(5, 50, 5))
    assert log[-1]['loss'] < 0.8 * log[0]['loss'] and log[-1]['mae'] < 0.9 * log[0]['mae']


def test_stopped_runs_go_on_to_the_bit(scenes, tmp_path):
    trained(small(), scenes, tmp_path / 'whole')
    for step in range(1, 7):
        trainer = trained(small(), scenes, tmp_path / 'pieces', seconds=0)
        assert trainer.step == step
    assert_same(weights(tmp_path / 'whole'), weights(tmp_path / 'pieces'))
    state = [torch.load(tmp_path / run / 'checkpoint.pt', weights_only=True)
             for run in ('whole', 'pieces')]
    assert_same(state[0]['model'], state[1]['model'])
    moments = [s['optimiser']['state'][0]['exp_avg_sq'] for s in state]
    assert torch.equal(*moments) and moments[0].any()


def test_kill_9_loses_only_what_came_after_the_checkpoint(scenes, tmp_path):
    path = write_config(tmp_path / 'run.yaml', steps=200, warmup=0, checkpoint=3,
                        data=[rendered_entry(scenes)])
    command = [sys.executable, '-m', 'steer_depth_ros.cli', 'train', '--config', path, '--device',
               'cpu', '--out', str(tmp_path / 'killed')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    checkpoint, end = tmp_path / 'killed' / 'checkpoint.pt', time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = torch.load(checkpoint, weights_only=True)['step']
    assert step % 3 == 0 and 0 < step < 200
    config = TrainingConfig.read(path)
    for folder in ('killed', 'whole'):
        trainer = Trainer(config, scenes, tmp_path / folder, say=silent)
        assert trainer.step == (step if folder == 'killed' else 0)
        while trainer.step < step + 2:
            trainer.train_step(trainer_examples(trainer))
        trainer.save()
    assert_same(weights(tmp_path / 'killed'), weights(tmp_path / 'whole'))


def trainer_examples(trainer):
    return next(iter(trainer.steps()))


def test_the_log_drops_what_a_kill_has_undone(scenes, tmp_path):
    trained(small(), scenes, tmp_path, seconds=0)
    with open(tmp_path / 'log.jsonl', 'a') as log:
        log.write('{"step": 1, "loss": 1}\n{"step": 4, "loss": 1}\n')
    trained(small(), scenes, tmp_path)
    steps = [json.loads(line)['step'] for line in (tmp_path / 'log.jsonl').read_text().split('\n')
             if line]
    assert steps == [1, 2, 4, 6]


def test_workers_prepare_the_same_steps(scenes, tmp_path):
    trained(small(steps=3), scenes, tmp_path / 'alone')
    trained(small(steps=3, workers=1), scenes, tmp_path / 'helped')
    assert_same(weights(tmp_path / 'alone'), weights(tmp_path / 'helped'))


def test_ctrl_c_ends_the_step_and_saves(scenes, tmp_path, monkeypatch, capsys):
    path = write_config(tmp_path / 'run.yaml', data=[rendered_entry(scenes)], checkpoint=100)
    step = Trainer.train_step

    def interrupted(self, frames):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, frames)

    monkeypatch.setattr(Trainer, 'train_step', interrupted)
    before = signal.getsignal(signal.SIGINT)
    command = ['train', '--config', path, '--out', str(tmp_path / 'run'), '--device', 'cpu']
    assert main(command) == 0
    assert 'stopped at step 3 of 6' in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    assert main(command) == 0
    assert 'finished at step 6 of 6' in capsys.readouterr().out
    monkeypatch.undo()
    assert_same(weights(tmp_path / 'run'),
                weights(trained(TrainingConfig.read(path), scenes, tmp_path / 'whole').folder))


def freeze_statistics(model):
    """Batch norm with fixed statistics: its own are those of one process's part of the batch."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer


def frozen_step(data, folder):
    """One step with every gradient alive and fixed statistics; returns the trainer."""
    trainer = Trainer(small(batch=4, clip=1e9), data, folder, say=silent)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the last layers start at zero and would hide the others
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    freeze_statistics(trainer.model)
    trainer.train_step(trainer_examples(trainer))
    return trainer


def frozen_process(rank, data, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank,
                            world_size=2)
    trainer = frozen_step(data, folder / 'run')
    torch.save({'gradients': {n: p.grad for n, p in trainer.model.named_parameters()},
                'weights': trainer.model.state_dict()}, folder / f'{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(scenes, tmp_path):
    torch.multiprocessing.spawn(frozen_process, (scenes, tmp_path), nprocs=2)
    shared = [torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1)]
    assert_same(shared[0]['weights'], shared[1]['weights'])
    alone = frozen_step(scenes, tmp_path / 'alone')
    for name, parameter in alone.model.named_parameters():
        scale = parameter.grad.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(shared[0]['gradients'][name], parameter.grad, rtol=1e-3,
                                   atol=1e-4 * scale, msg=name)


def test_torchrun_trains_and_agrees_when_to_stop(scenes, tmp_path):
    path = write_config(tmp_path / 'run.yaml', data=[rendered_entry(scenes)])
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
               '2', '-m', 'steer_depth_ros.cli', 'train', '--config', path, '--device', 'cpu',
               '--out', str(tmp_path / 'run'), '--minutes', '0']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '2 processes' in done.stdout and done.stdout.count('stopped at step 1 of 6') == 1


def test_learns_from_nyu_and_kitti_mixed_goes_on_and_is_evaluated(tmp_path, capsys):
    write_nyu(tmp_path / 'nyu', 2, boxes=12)
    write_kitti_selection(tmp_path / 'kitti')
    path = write_config(tmp_path / 'run.yaml', steps=12, batch=3, report=3, data=[
        {'dataset': 'nyu', 'data_dir': str(tmp_path / 'nyu'), 'split': 'val'},
        {'dataset': 'kitti', 'data_dir': str(tmp_path / 'kitti'), 'split': 'val', 'weight': 2}])

    def train(folder, *options):
        assert main(['train', '--config', path, '--out', str(tmp_path / folder), '--device', 'cpu',
                     *options]) == 0
        return capsys.readouterr().out

    # Twice the weight: four of six indices; both sizes come up in one batch of three.
    assert '6 frames to draw from' in train('whole')
    found = losses(tmp_path / 'whole')
    assert found[-1] < 0.8 * found[0]
    assert 'stopped at step 1 of 12' in train('pieces', '--minutes', '0')
    assert 'step 1 of 12' in train('pieces')
    assert_same(weights(tmp_path / 'whole'), weights(tmp_path / 'pieces'))
    for name in ('nyu', 'kitti'):
        assert main(['eval', '--dataset', name, '--data-dir', str(tmp_path / name), '--limit', '1',
                     '--preset', 'learned',
                     '--weights', str(tmp_path / 'whole' / 'weights.safetensors'),
                     '--device', 'cpu', '--json', str(tmp_path / 'figures.json')]) == 0
        result, = json.loads((tmp_path / 'figures.json').read_text())['results']
        assert result['rel'] < 1 and result['coverage'] > 0.3


def losses(folder):
    return [json.loads(line)['loss'] for line in (folder / 'log.jsonl').read_text().splitlines()]


def test_learns_from_a_folder_of_frames(tmp_path):
    wall = np.full((60, 80), 2.0)
    wall[20:40] = 1.5
    for name in 'ab':
        write_frame(tmp_path / 'set' / name, depth=wall)
    path = write_config(tmp_path / 'run.yaml', steps=24, report=8, learning_rate=0.02, data=[
        {'dataset': 'frames', 'data_dir': str(tmp_path / 'set'), 'pattern': 'random:100'}])
    assert main(['train', '--config', path, '--out', str(tmp_path), '--device', 'cpu']) == 0
    first, _, last = losses(tmp_path)
    assert last < 0.95 * first


def test_a_recording_gives_any_frame_in_any_process(tmp_path):
    frames_to_bag(cloud_frames(3), tmp_path / 'drive.mcap')
    data = BagFrames(tmp_path / 'drive.mcap')
    frames = list(cloud_frames(3))
    assert len(data) == 3
    for index in (2, 0, 1):
        item = data[index]
        assert np.array_equal(item['image'], frames[index].frame.image)
        assert np.array_equal(item['depth'], frames[index].truth)
        assert np.allclose(item['uv'], frames[index].frame.sparse_depth().uv, atol=1e-4)
    again = pickle.loads(pickle.dumps(data))[1]  # what a worker gets
    assert torch.equal(again['uv'], item['uv']) and again['name'] == item['name']
    assert item['name'].endswith('drive.mcap frame 1')


def test_learns_from_a_recording(tmp_path):
    frames_to_bag(depth_frames(2), tmp_path / 'room.db3')
    path = write_config(tmp_path / 'run.yaml', steps=12, report=4, workers=1, data=[
        {'dataset': 'bag', 'data_dir': str(tmp_path / 'room.db3'), 'pattern': 'random:100'}])
    assert main(['train', '--config', path, '--out', str(tmp_path), '--device', 'cpu']) == 0
    first, _, last = losses(tmp_path)
    assert last < 0.9 * first


def test_the_network_of_the_paper_learns_and_is_evaluated(tmp_path):
    write_kitti_selection(tmp_path)
    path = write_config(tmp_path / 'run.yaml', steps=4, report=1, warmup=0, learning_rate=1e-4,
                        model={'architecture': 'reference', 'depth_range': None},
                        data=[{'dataset': 'kitti', 'data_dir': str(tmp_path), 'split': 'val'}])
    assert main(['train', '--config', path, '--out', str(tmp_path), '--device', 'cpu']) == 0
    found = losses(tmp_path)
    assert len(found) == 4 and found[-1] < found[0]
    assert main(['eval', '--dataset', 'kitti', '--data-dir', str(tmp_path), '--limit', '1',
                 '--preset', 'reference', '--weights', str(tmp_path / 'weights.safetensors'),
                 '--device', 'cpu']) == 0


def test_measured_frames_get_other_samples_at_every_step(tmp_path, scenes):
    from steer_depth_ros.datasets.nyu import NyuFrames
    data = Mixture([NyuFrames(write_nyu(tmp_path, 1)), scenes], [1, 1])
    assert len(data) == 8
    drawn = []
    for data.epoch in (0, 1, 0):
        drawn.append(data[3]['uv'])
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert data[3]['name'] == data[0]['name'] != data[4]['name']
    assert torch.equal(data[5]['uv'], scenes[1]['uv'])


def test_steps_draw_by_seed_and_number():
    config = small(batch=64)
    indices, flips = choose(config, 3, [1000])
    assert np.array_equal(indices, choose(config, 3, [1000])[0])
    assert not np.array_equal(indices, choose(config, 4, [1000])[0])
    assert not np.array_equal(indices, choose(small(batch=64, seed=2), 3, [1000])[0])
    assert 10 < flips.sum() < 54


def test_steps_take_new_frames_until_none_is_left_and_one_data_set_each():
    config = small(batch=6, new=4, steps=60)
    seen: set = set()
    for step in range(60):
        indices = choose(config, step, [40, 80])[0]
        assert len(indices) == 6 and (indices < 40).all() or (indices >= 40).all()
        new = set(indices.tolist()) - seen
        assert len(new) in (0, 4), step  # what is not new has been there before
        seen |= new
    assert seen == set(range(120))


def test_prepared_examples_are_made_once_and_kept(scenes, tmp_path):
    config = small(cache=str(tmp_path / 'cache'), steps=2, batch=2)
    trained(config, scenes, tmp_path / 'first')
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'cache').iterdir()}
    trained(config, scenes, tmp_path / 'again')
    assert files and files == {p: p.stat().st_mtime_ns for p in (tmp_path / 'cache').iterdir()}
    assert_same(weights(tmp_path / 'first'), weights(tmp_path / 'again'))
    on = small(cache=config.cache, steps=1, batch=2, learning_rate=0.,
               start=str(tmp_path / 'first' / 'weights.safetensors'))
    begun = Trainer(on, scenes, tmp_path / 'on', say=silent)
    assert_same(weights(tmp_path / 'first'), begun.model.state_dict())
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match='is damaged'):
        trained(config, scenes, tmp_path / 'third')


def test_tensorboard_gets_curves_and_pictures(scenes, tmp_path, monkeypatch):
    scalars, images = {}, {}

    class Writer:
        """Take what SummaryWriter takes."""

        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path) and purge_step == 1

        def add_scalar(self, name, value, step):
            scalars[name, step] = value

        def add_image(self, name, picture, step, dataformats):
            assert dataformats == 'HWC' and picture.dtype == np.uint8
            images[name, step] = picture.shape

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard',
                        types.SimpleNamespace(SummaryWriter=Writer))
    trained(small(), scenes, tmp_path)
    assert {step for _, step in scalars} == {2, 4, 6} and ('loss', 2) in scalars
    assert images == {(f'frame {i}', 2): (64, 320, 3) for i in range(4)}


def test_drawing_pictures_changes_no_weight(scenes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    trained(small(), scenes, tmp_path / 'plain')
    monkeypatch.undo()
    writer = types.SimpleNamespace(add_scalar=lambda *a: None, close=lambda: None,
                                   add_image=lambda *a, **k: None)
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', types.SimpleNamespace(
        SummaryWriter=lambda *a, **k: writer))
    trained(small(), scenes, tmp_path / 'drawn')
    assert_same(weights(tmp_path / 'plain'), weights(tmp_path / 'drawn'))


def test_another_run_in_the_folder_is_refused(scenes, tmp_path):
    trained(small(steps=2), scenes, tmp_path)
    with pytest.raises(ConfigError, match='learning_rate 0.002, now it is 0.1'):
        Trainer(small(steps=2, learning_rate=0.1), scenes, tmp_path)
    Trainer(small(steps=2, report=1, workers=2), scenes, tmp_path)
    (tmp_path / 'checkpoint.pt').write_bytes(b'broken')
    with pytest.raises(WeightsError, match='checkpoint.pt is damaged'):
        Trainer(small(steps=2), scenes, tmp_path)


def test_a_damaged_frame_is_one_sentence(tmp_path, capsys):
    write_nyu(tmp_path, 1)
    (tmp_path / 'val' / 'official' / '00000.h5').write_bytes(b'broken')
    path = write_config(tmp_path / 'run.yaml', workers=1, data=[
        {'dataset': 'nyu', 'data_dir': str(tmp_path), 'split': 'val'}])
    assert main(['train', '--config', path, '--out', str(tmp_path), '--device', 'cpu']) == 2
    error = capsys.readouterr().err
    assert '00000.h5' in error and 'Traceback' not in error and error.count('\n') == 1


@pytest.mark.parametrize('changes, message', [
    ({'rate': 1}, "unknown key 'rate'"),
    ({'steps': 0}, 'steps must be a whole number of at least 1'),
    ({'batch': 2.5}, 'batch must be a whole number'),
    ({'learning_rate': 'fast'}, 'learning_rate must be a number'),
    ({'amp': 'yes'}, 'amp must be true or false'),
    ({'data': []}, 'data must list'),
    ({'data': ['nyu']}, 'data must list'),
    ({'data': [{'dataset': 'cityscapes'}]}, 'data entry 1: dataset must be one of'),
    ({'data': [{'dataset': 'nyu'}]}, 'data entry 1: nyu needs data_dir'),
    ({'data': [{'dataset': 'nyu', 'data_dir': 'nowhere'}]}, 'nowhere'),
    ({'data': [{'dataset': 'bag', 'data_dir': 'nowhere'}]}, 'there is no recording nowhere'),
    ({'data': [{'dataset': 'rendered', 'scenes': 3}]}, "rendered has no 'scenes'"),
    ({'data': [{'dataset': 'rendered', 'frames': 0}]}, 'frames must be a whole number'),
    ({'data': [{'dataset': 'rendered', 'size': 320}]}, 'size 320: expected WIDTHxHEIGHT'),
    ({'data': [{'dataset': 'rendered', 'weight': -1}]}, 'weight must be a number above 0'),
    ({'model': {'depth': 3}}, "refinement_net has no 'depth'"),
    ({'data': [{'dataset': 'rendered', 'seed': -1}]}, 'seed must be a whole number of at least 0'),
    ({'data': [{'dataset': 'nyu', 'data_dir': 5}]}, 'data_dir must be a text, not 5'),
    ({'data': [{'dataset': 'rendered', 'folder': __file__}]}, 'cannot keep scenes in'),
    ({'model': {'channels': [8]}}, 'channels must be two to eight whole numbers, not [8]'),
    ({'model': {'architecture': 'reference', 'depth_range': [5, 1]}}, 'two increasing numbers'),
    ({'model': {'architecture': 'unet'}}, "architecture 'unet' is not one of"),
    ({'model': {'architecture': 'reference'}, 'amp': True}, 'amp is not supported by')])
def test_configuration_errors_are_one_sentence(changes, message, tmp_path, capsys):
    path = write_config(tmp_path / 'run.yaml', **{
        'data': [{'dataset': 'rendered', 'frames': 1, 'folder': str(tmp_path)}], **changes})
    assert main(['train', '--config', path, '--out', str(tmp_path / 'run'), '--device',
                 'cpu']) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error


@pytest.mark.parametrize('text, message', [
    ('a: [', 'is not valid YAML'), ('- 1', 'must hold'), (None, 'cannot read')])
def test_a_file_that_is_no_configuration(text, message, tmp_path, capsys):
    path = tmp_path / 'run.yaml'
    if text:
        path.write_text(text)
    assert main(['train', '--config', str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('path', sorted((ROOT / 'config' / 'train').glob('*.yaml')),
                         ids=lambda p: p.stem)
def test_shipped_configurations_are_sound(path):
    config = TrainingConfig.read(path)
    assert config.name == path.stem and 1e-5 < config.learning_rate < 1e-2
