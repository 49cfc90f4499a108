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
"""Tensors that are made once, and whether convolutions are rounded."""
import pytest
import torch

from steer_depth_ros.ops.constants import full_float32, number


def test_numbers_are_made_once_and_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        found = number(((1.0, 2.5), (3.0, 4.0)), torch.device('cpu'))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and found.tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert number(((1.0, 2.5), (3.0, 4.0)), torch.device('cpu')) is found
    with torch.inference_mode():
        assert not number(0.123, torch.device('cpu')).is_inference()


@pytest.mark.parametrize('cudnn', [False, True])
def test_convolutions_on_a_gpu_are_not_rounded(cudnn):
    flags = torch.backends.cudnn
    before = flags.enabled, flags.allow_tf32
    with pytest.raises(ZeroDivisionError), full_float32(torch.device('cuda'), cudnn):
        assert (flags.enabled, flags.allow_tf32) == (cudnn, False)
        raise ZeroDivisionError
    assert (flags.enabled, flags.allow_tf32) == before
    with full_float32(torch.device('cpu'), cudnn):
        assert (flags.enabled, flags.allow_tf32) == before
