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
"""Evaluate methods on examples, per preset and sampling pattern, as figures and pictures."""
from dataclasses import dataclass, field
from itertools import islice
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from steer_depth_ros.datasets.base import Example, MeasuredFrames
from steer_depth_ros.datasets.held_out import example_from_frame
from steer_depth_ros.errors import DatasetError
from steer_depth_ros.evaluation.confidence_report import ConfidenceReport
from steer_depth_ros.evaluation.metrics import average, measure
from steer_depth_ros.recordings.bag import BagReader
from steer_depth_ros.recordings.bag_frames import (
    choose_topics,
    Drops,
    node_values,
    read_truth,
    run_pipeline,
)
from steer_depth_ros.recordings.frame_folder import find_frames, read_frame, RecordedFrame
from steer_depth_ros.synthetic.procedural import ProceduralFrames
from steer_depth_ros.synthetic.sensors import pattern_by_name
from steer_depth_ros.viz.preview import SheetRow

AS_RECORDED = 'as recorded'  # name in tables of the pattern None
# image uint8 (H, W, 3), uv float32 (N, 2), depth float32 (N,) -> depth and confidence (H, W);
# the confidence is None for a method that has none.
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray],
                   Tuple[np.ndarray, Optional[np.ndarray]]]


@dataclass
class Result:
    """Figures of one method with one sampling pattern, and a few frames for the sheet."""

    method: str
    pattern: str
    confidence: ConfidenceReport = field(default_factory=ConfidenceReport)
    seconds: List[float] = field(default_factory=list)
    frames: List[Dict[str, Any]] = field(default_factory=list)
    rows: List[SheetRow] = field(default_factory=list)

    def figures(self) -> Dict[str, object]:
        """Return all figures, ready for JSON; ms is the median time per frame."""
        return {'method': self.method, 'pattern': self.pattern, 'frames': len(self.frames),
                'samples': float(np.mean([frame['samples'] for frame in self.frames])),
                'ms': 1e3 * float(np.median(self.seconds)), **_without_nan(average(self.frames)),
                'confidence': self.confidence.figures(), 'per_frame': self.frames}


def evaluate(methods: Dict[str, Predict], examples: Iterable[Tuple[str, Example]],
             pictures: int = 0) -> List[Result]:
    """
    Measure every method on every example.

    methods: name to method. examples: pairs of a pattern name and an example. pictures: number
    of frames per result that are kept for the sheet. Raise DatasetError if there is no example.
    """
    results: Dict[Tuple[str, str], Result] = {}
    for pattern, example in examples:
        for method, predict in methods.items():
            result = results.setdefault((method, pattern), Result(method, pattern))
            _measure(result, predict, example, len(result.rows) < pictures)
    if not results:
        raise DatasetError('there is no frame to evaluate')
    return sorted(results.values(), key=lambda r: list(methods).index(r.method))


def _measure(result, predict, example, picture):
    start = time.perf_counter()
    depth, confidence = predict(example.image, example.uv, example.sparse)
    result.seconds.append(time.perf_counter() - start)
    figures = measure(depth, example.truth)
    result.frames.append({'name': example.name, 'samples': len(example.sparse),
                          **_without_nan(figures)})
    if confidence is not None:
        result.confidence.add(depth, confidence, example.truth)
    if picture:
        result.rows.append(_sheet_row(result, example, depth, confidence, figures))


def _without_nan(figures):
    """Return figures with None instead of NaN, which JSON does not have."""
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def _sheet_row(result, example, depth, confidence, figures):
    caption = (f'{result.method} | {result.pattern} | {example.name} | RMSE '
               f'{figures["rmse"]:.3f} m, REL {figures["rel"]:.4f}')
    if confidence is None:
        confidence = np.full(depth.shape, np.nan, np.float32)
    truth = np.where(np.isfinite(example.truth), example.truth, np.nan).astype(np.float32)
    return SheetRow(example.image, example.uv, example.sparse, depth, confidence, example.camera,
                    caption, truth)


def measured_examples(frames: MeasuredFrames, patterns: Sequence[Optional[str]],
                      limit: Optional[int] = None) -> Iterator[Tuple[str, Example]]:
    """Yield the frames of a data set with each pattern; None is the default of the data set."""
    for index in range(min(limit or len(frames), len(frames))):
        frame = frames.read(index)
        for pattern in patterns:
            yield pattern or frames.pattern, frames.example(frame, index, pattern)


def procedural_examples(frames: ProceduralFrames, patterns: Sequence[str]):
    """Yield rendered frames with each pattern."""
    draws = {pattern: pattern_by_name(pattern) for pattern in patterns}
    for index in range(len(frames)):
        scene = frames.scene(index)
        image, truth = scene.image.cpu().numpy(), scene.depth.cpu().numpy()
        for pattern, draw in draws.items():
            samples = draw(scene, np.random.default_rng([frames.seed, index]))
            yield pattern, Example(f'scene {index}', image, samples.uv, samples.depth, truth,
                                   scene.camera)


def folder_examples(folder, patterns: Sequence[Optional[str]], limit: Optional[int] = None,
                    seed: int = 0, left_out: Optional[List[str]] = None):
    """
    Yield the frames of a folder with each pattern; see `example_from_frame`.

    left_out: list that receives the reason for each frame that cannot be used; if None, such a
    frame raises its DatasetError.
    """
    for index, path in enumerate(find_frames(folder)[:limit]):
        try:
            yield from _recorded_examples(read_frame(path), index, patterns, seed)
        except DatasetError as error:
            if left_out is None:
                raise
            left_out.append(str(error))


def bag_examples(path, patterns: Sequence[Optional[str]], limit: Optional[int] = None,
                 seed: int = 0, left_out: Optional[List[str]] = None):
    """
    Yield the frames of a recording with each pattern, with its truth topic if it has one.

    left_out: takes what is wrong with frames that cannot be used.
    """
    drops = Drops()
    with BagReader(path) as recording:
        truth = read_truth(recording)
        topics = choose_topics(recording)
        results = run_pipeline(recording, topics, node_values(recording, topics), drops=drops)
        for index, result in enumerate(islice(results, limit)):
            frame = result.frame
            recorded = RecordedFrame(f'{index:06d}', frame, truth=truth.get(frame.stamp_ns))
            yield from _recorded_examples(recorded, index, patterns, seed)
    if left_out is not None:
        left_out += drops.reasons()


def _recorded_examples(recorded, index, patterns, seed):
    for pattern in patterns:
        rng = np.random.default_rng([seed, index])
        yield pattern or AS_RECORDED, example_from_frame(recorded, pattern, rng)
