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
"""
The node as it is, but for a model that can be told to fail: `hooked_node.py --ros-args ...`.

The file named by $FAULT_ORDER holds what the model does instead of its work: 'cuda memory' and
'host memory' raise what torch and numpy raise when none is left, 'slow 0.1' takes 0.1 s longer.
Without the file it works. Diagnostics come more often, so that tests need not wait for them.
"""
import os
from pathlib import Path
import sys
import time

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch  # noqa: E402

from steer_depth_ros.completion import pipeline  # noqa: E402
from steer_depth_ros.ros import node  # noqa: E402

STATUS_PERIOD_S = 0.1


def hook(order: Path) -> None:
    """Let the completion obey the orders in this file."""
    work = pipeline.complete

    def complete(*arguments, **options):
        try:
            words = order.read_text().split()
        except FileNotFoundError:
            words = []
        if words == ['cuda', 'memory']:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        if words == ['host', 'memory']:
            raise MemoryError('Unable to allocate 2.00 GiB')
        if words and words[0] == 'slow':
            time.sleep(float(words[1]))
        return work(*arguments, **options)

    pipeline.complete = complete


if __name__ == '__main__':
    hook(Path(os.environ['FAULT_ORDER']))
    node.STATUS_PERIOD_S = STATUS_PERIOD_S
    sys.exit(node.main())
