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
"""The log of a training run: log.jsonl, and TensorBoard curves and pictures if installed."""
import json
from pathlib import Path

import numpy as np
import torch

from steer_depth_ros.viz import preview

PICTURES = 4  # frames shown in TensorBoard
REPORTS_PER_PICTURE = 10


class TrainingLog:
    """
    Writes the reports of a run.

    folder: folder of the run. step: step from which the run continues; lines of later steps, which
    were lost in a kill, are removed. items: function that returns data set items for the pictures.
    """

    def __init__(self, folder, step, items, say):
        self.path, self.items, self.reports = Path(folder) / 'log.jsonl', items, 0
        self._drop_after(step)
        self.board = _board(folder, step, say)

    def _drop_after(self, step):
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)['step'] <= step]
        if len(kept) < len(lines):
            self.path.write_text(''.join(kept))

    def report(self, figures, predictor):
        """Add figures, a mapping with `step`; predictor: returns what completes the pictures."""
        with open(self.path, 'a') as log:
            log.write(json.dumps(figures) + '\n')
        if self.board is None:
            return
        step = figures['step']
        for name, value in figures.items():
            if name != 'step':
                self.board.add_scalar(name, value, step)
        if self.reports % REPORTS_PER_PICTURE == 0:
            complete = predictor()
            for number, item in enumerate(self.items()):
                self.board.add_image(f'frame {number}', picture(item, complete), step,
                                     dataformats='HWC')
        self.reports += 1

    def close(self):
        """Flush and close the log."""
        if self.board is not None:
            self.board.close()


def _board(folder, step, say):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say('no TensorBoard curves and pictures, because tensorboard is not installed '
            '(pip install tensorboard); log.jsonl has the figures')
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def picture(item, complete):
    """Return image, samples, estimate and truth side by side, uint8 (H, 4 W, 3)."""
    image, uv = np.asarray(item['image']), np.asarray(item['uv'])
    sparse = np.asarray(item['sparse'])
    truth = np.asarray(item['depth'])
    truth = np.where(np.isfinite(truth) & (truth > 0), truth, np.float32(np.nan))
    with torch.inference_mode():
        depth, _ = complete(image, uv, sparse)
    near, far = preview.depth_range(sparse, truth)
    return np.concatenate([image, preview.draw_samples(image, uv, sparse, near, far),
                           preview.color_depth(depth, near, far),
                           preview.color_depth(truth, near, far)], 1)
