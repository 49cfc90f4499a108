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
"""Train a model, alone or as one of the processes that torchrun starts."""
from contextlib import contextmanager
import os
from pathlib import Path
import signal

from steer_depth_ros.errors import ConfigError


def add_arguments(parser):
    parser.add_argument('--config', required=True, metavar='FILE',
                        help='YAML, as config/train/learned.yaml')
    parser.add_argument('--out', metavar='DIR', help='folder of the run (out/train/NAME of the '
                        'configuration); a run that it holds is gone on with')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda')
    parser.add_argument('--minutes', type=float, metavar='M',
                        help='stop after that time; the same command goes on')


def run(args):
    from steer_depth_ros.completion.completer import find_device
    from steer_depth_ros.training.data import open_data
    from steer_depth_ros.training.trainer import Trainer, TrainingConfig
    if args.minutes is not None and args.minutes < 0:
        raise ConfigError(f'--minutes {args.minutes:g}: a time cannot be negative')
    config = TrainingConfig.read(args.config)
    folder = Path(args.out or Path('out', 'train', config.name))
    data = open_data(config.data)
    with process_group(find_device(args.device)) as (device, rank):
        say = _print_now if rank == 0 else _say_nothing
        trainer = Trainer(config, data, folder, device, say)
        say(f'{folder}: {sum(p.numel() for p in trainer.model.parameters()):,} parameters on '
            f'{device}, {trainer.world} process{"es" * (trainer.world > 1)}, {len(data):,} '
            f'frames to draw from, step {trainer.step} of {config.steps}')
        with stopped_by_signals(trainer.stop):
            done = trainer.run(None if args.minutes is None else 60 * args.minutes)
        say(f'{folder}: {"finished" if done else "stopped"} at step {trainer.step} of '
            f'{config.steps}; weights in {folder / "weights.safetensors"}'
            + ('' if done else '; the same command goes on'))
    return 0


def _print_now(line):
    print(line, flush=True)  # not only when a file's buffer is full


def _say_nothing(_):
    pass


@contextmanager
def process_group(device):
    """Join torchrun's processes, if it started this one; gives the device and the rank."""
    import torch
    import torch.distributed as dist
    if 'WORLD_SIZE' not in os.environ:
        yield device, 0
        return
    if device.type == 'cuda':
        device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        torch.cuda.set_device(device)
    store, rank, world = next(dist.rendezvous('env://'))
    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', store=store, rank=rank,
                            world_size=world)
    try:
        yield device, rank
        # One that leaves early closes connections that others still read from.
        store.set(f'done/{rank}', '')
        store.wait([f'done/{other}' for other in range(world)])
    finally:
        dist.destroy_process_group()


@contextmanager
def stopped_by_signals(stop):
    """Let the first Ctrl-C or SIGTERM call stop(); the second one kills, as usual."""
    def ask(number, _):
        signal.signal(number, before[number])
        stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
