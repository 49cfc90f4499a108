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
"""How exact calibration is: known errors put on right extrinsics, and what remains of them."""
from dataclasses import dataclass
from typing import Any, Callable, Dict, List

import cv2
import numpy as np

from steer_depth_ros.calibration.monitor import FitMonitor
from steer_depth_ros.calibration.objective import FrameFit
from steer_depth_ros.calibration.optimize import calibrate, corrected, ROTATION
from steer_depth_ros.geometry.frame import Frame
from steer_depth_ros.geometry.projection import project_points

SMALLEST_DEG, LARGEST_DEG = 0.3, 2.0
COVERED = 2.0  # standard deviations within which the truth should lie
LOOK_NS = 1_000_000_000  # between two looks of the monitor
LOOKS = 4  # within three seconds
MONITOR_DEG = 1.0


@dataclass
class Trial:
    """
    One error and what calibration made of it.

    before_deg, after_deg: angle between the extrinsics and those recorded. error, sigma: (3,)
    degrees about the camera's axes that remain, and the standard deviations that were told.
    changed: whether anything was corrected.
    """

    before_deg: float
    after_deg: float
    error: np.ndarray
    sigma: np.ndarray
    changed: bool

    @property
    def worse(self) -> bool:
        """Return whether it ended farther off than it began."""
        return self.after_deg > self.before_deg + 1e-6

    @property
    def covered(self) -> bool:
        """Return whether the truth lies within the uncertainty, about each axis."""
        return bool((np.abs(self.error) <= COVERED * self.sigma).all())


def error(rng: np.random.Generator) -> np.ndarray:
    """Draw a correction, (7,): a rotation of 0.3 to 2 degrees about a random axis."""
    axis = rng.standard_normal(3)
    drawn = np.zeros(7)
    drawn[ROTATION] = axis / np.linalg.norm(axis) * rng.uniform(SMALLEST_DEG, LARGEST_DEG)
    return drawn


def _moved(frame, wrong):
    return corrected(np.asarray(frame.camera_from_points, np.float64), wrong)


def run_trials(frames: List[Frame], count: int, seed: int = 0,
               progress: Callable[[float], None] = lambda share: None) -> List[Trial]:
    """Calibrate the frames together `count` times, each from another wrong rotation."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        wrong = error(rng)
        fits = [FrameFit(f.image, f.camera, np.asarray(f.points), _moved(f, wrong), f.echo)
                for f in frames]
        estimate = calibrate(fits, fits[0].start)
        right = _moved(frames[0], np.zeros(7))[:3, :3]
        left = np.rad2deg(cv2.Rodrigues(estimate.pose[:3, :3] @ right.T)[0].ravel())
        found.append(Trial(float(np.linalg.norm(wrong)), float(np.linalg.norm(left)), left,
                           estimate.sigma[ROTATION], estimate.changed))
        progress((number + 1) / count)
    return found


def summary(trials: List[Trial]) -> Dict[str, Any]:
    """Return the figures of trials: medians in degrees, and shares."""
    return {'trials': len(trials),
            'median_before_deg': float(np.median([t.before_deg for t in trials])),
            'median_after_deg': float(np.median([t.after_deg for t in trials])),
            'median_sigma_deg': float(np.median([np.linalg.norm(t.sigma) for t in trials])),
            'changed': float(np.mean([t.changed for t in trials])),
            'worse': float(np.mean([t.worse for t in trials])),
            'covered': float(np.mean([t.covered for t in trials]))}


def monitor_alarms(frames: List[Frame], wrong: np.ndarray) -> bool:
    """
    Return whether the node's monitor warns within four looks, three seconds.

    wrong: (7,), an error that is put on the extrinsics. Looks go through the frames in turn.
    """
    monitor = FitMonitor()
    for look in range(LOOKS):
        frame = frames[look * len(frames) // LOOKS]
        sparse = project_points(np.asarray(frame.points), frame.camera, _moved(frame, wrong))
        monitor.add(frame.image, frame.camera, sparse.uv, sparse.depth, (look + 1) * LOOK_NS)
    fit = monitor.fit()
    return fit is not None and fit.significant


def monitor_summary(frames: List[Frame], count: int, seed: int = 0) -> Dict[str, float]:
    """
    Return how often the monitor warns.

    right: false alarms, with extrinsics that are off by up to 0.2 degrees. wrong: detections, with
    1 degree about random axes.
    """
    rng = np.random.default_rng(seed)
    alarms = []
    for _ in range(count):
        drawn = error(rng)
        unit = drawn / np.linalg.norm(drawn)
        alarms.append([monitor_alarms(frames, size * unit)
                       for size in (rng.uniform(0, 0.2), MONITOR_DEG)])
    right, wrong = np.mean(alarms, axis=0)
    return {'right': float(right), 'wrong': float(wrong)}
