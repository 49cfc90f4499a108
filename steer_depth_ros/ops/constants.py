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
"""Tensors that are made once, and arithmetic that is not rounded."""
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor


def constant(function):
    """Cache the tensors that a function returns, in a form that gradients may use, too."""
    @lru_cache(256)
    def once(*args):
        with torch.inference_mode(False):
            return function(*args)
    return once


@constant
def number(value, device, dtype=torch.float32) -> Tensor:
    """Return a tensor of a number, or of tuples of such, made once."""
    return torch.tensor(value, dtype=dtype).to(device)


@contextmanager
def full_float32(device, cudnn=True):
    """
    Let convolutions in the block compute in float32: by default cuDNN rounds to TF32 on a GPU.

    cudnn: False leaves cuDNN out.
    """
    if device.type != 'cuda':  # the flags are those of all threads, which may use a GPU
        yield
        return
    flags = torch.backends.cudnn
    before = flags.enabled, flags.allow_tf32
    flags.enabled, flags.allow_tf32 = cudnn, False
    try:
        yield
    finally:
        flags.enabled, flags.allow_tf32 = before
