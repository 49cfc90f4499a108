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
"""Fixtures of a release-like checkpoint: the release's key names, random weights."""
import math

import torch

CONVOLUTIONS, NORMS = (0, 3), (1, 4)
KERNELNET = [('inc.conv.conv', 3, 64), ('down1.mpconv.1.conv', 64, 512),
             ('up3.conv.conv', 576, 64), ('outc', 64, 3)]
RESNET = [('inc1.conv.conv', 4, 64), ('down1.mpconv.1.conv', 64, 128),
          ('down2.mpconv.1.conv', 128, 256), ('down3.mpconv.1.conv', 256, 512),
          ('down4.mpconv.1.conv', 512, 512), ('up1.conv.conv', 1024, 256),
          ('up2.conv.conv', 512, 128), ('up3.conv.conv', 256, 64), ('up4.conv.conv', 128, 64),
          ('outc', 64, 401), ('outsign', 64, 1)]


def release_state(blocks, seed, counters=False):
    """Random weights under the release's names; counters: as PyTorch 0.4.1 and later add them."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    state = {}
    for name, inputs, outputs in blocks:
        if name.startswith('out'):
            # Lively heads: maps that vary, and a peaked distribution over the bins.
            state[f'{name}.conv.weight'] = random(outputs, inputs, 1, 1) * 0.3
            state[f'{name}.conv.bias'] = random(outputs) * 0.2
            continue
        for convolution, norm in zip(CONVOLUTIONS, NORMS, strict=True):
            state[f'{name}.{convolution}.weight'] = (
                random(outputs, inputs, 3, 3) * math.sqrt(2 / (9 * inputs)))
            state[f'{name}.{convolution}.bias'] = random(outputs) * 0.1
            state[f'{name}.{norm}.weight'] = 1 + 0.1 * random(outputs)
            state[f'{name}.{norm}.bias'] = 0.1 * random(outputs)
            state[f'{name}.{norm}.running_mean'] = 0.1 * random(outputs)
            state[f'{name}.{norm}.running_var'] = 1 + 0.1 * random(outputs).abs()
            if counters:
                state[f'{name}.{norm}.num_batches_tracked'] = torch.tensor(7)
            inputs = outputs
    return state
