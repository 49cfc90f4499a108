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
"""Our own model as the completer runs it: weights from a file, one frame at a time."""
import torch

from steer_depth_ros.errors import WeightsError
from steer_depth_ros.network import mixture_net
from steer_depth_ros.network.checkpoints import check_state, load_safetensors


class LearnedModel:
    """The trained mixture of kernels; `estimate` gives depth and the expected relative error."""

    # The kernels that are mixed come from the preset `steering`; only the weighing is here.
    operator_device = torch.device('cpu')

    def __init__(self, net, device):
        self.net, self.device = net.eval().to(device), torch.device(device)

    @classmethod
    def load(cls, path, device='cpu'):
        """Read a safetensors file; WeightsError where it is missing, damaged or foreign."""
        state, info = load_safetensors(path)
        if info.architecture != mixture_net.ARCHITECTURE:
            raise WeightsError(f'{path} holds weights of {info.architecture!r}, not of '
                               f"{mixture_net.ARCHITECTURE}; choose preset 'reference' for those "
                               'of the 2021 release')
        with torch.device('meta'):  # nothing is allocated before file and configuration agree
            shapes = _net(info, path)
        check_state(shapes, state, path)
        net = _net(info, path)
        net.load_state_dict(state)
        return cls(net, device)

    def prepare(self, image, uv, depth, past_edges=False):
        """Return what the network takes, on its device."""
        return mixture_net.mixture_inputs(image, uv, depth, past_edges).to(self.device)

    def estimate(self, image, uv, depth, past_edges=False):
        """Return depth (metres) and expected relative error, float32 (H, W)."""
        inputs = self.prepare(image, uv, depth, past_edges)
        inverse, error, first = self.net(inputs)
        # Where there is a sample, nothing is better than the tuned kernels.
        inverse = torch.where(inputs.sampled, first, inverse)
        dense = inputs.median / inverse[0].exp()
        return dense.cpu().numpy(), error[0].clamp(-9, 2).exp().cpu().numpy()


def _net(info, path):
    try:
        return mixture_net.MixtureNet(info.config['channels'])
    except Exception as error:  # whatever numbers and texts of a file lead to inside the layers
        reason = (str(error).splitlines() or [''])[0][:200]
        raise WeightsError(f'{path} states a configuration that cannot be built '
                           f'({type(error).__name__}: {reason}); write it again') from None
