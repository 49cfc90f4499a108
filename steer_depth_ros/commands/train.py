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
"""`steer_depth train`: train a model, in one process or in several started by torchrun."""
from contextlib import contextmanager
import os
from pathlib import Path
import signal

from steer_depth_ros.errors import ConfigError


def add_arguments(parser):
    parser.add_argument('--config', required=True, metavar='FILE',
                        help='YAML file such as config/train/learned.yaml')
    parser.add_argument('--out', metavar='DIR', help='folder of the run (default out/train/NAME, '
                        'with the name of the configuration); a run in it is resumed')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda')
    parser.add_argument('--minutes', type=float, metavar='M',
                        help='stop after this time; the same command resumes')


def run(args):
    from steer_depth_ros.completion.completer import find_device
    from steer_depth_ros.training.data import open_data
    from steer_depth_ros.training.trainer import Trainer, TrainingConfig
    if args.minutes is not None and args.minutes < 0:
        raise ConfigError(f'--minutes {args.minutes:g}: must not be negative')
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
            + ('' if done else '; the same command resumes'))
    return 0


def _print_now(line):
    print(line, flush=True)  # also if the output goes to a file


def _say_nothing(_):
    pass


@contextmanager
def process_group(device):
    """Join the process group if torchrun started this process; yield the device and the rank."""
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
        # Leaving early would close connections that other processes still read from.
        store.set(f'done/{rank}', '')
        store.wait([f'done/{other}' for other in range(world)])
    finally:
        dist.destroy_process_group()


@contextmanager
def stopped_by_signals(stop):
    """Call stop() at the first Ctrl-C or SIGTERM; the second one ends the process as usual."""
    def ask(number, _):
        signal.signal(number, before[number])
        stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
