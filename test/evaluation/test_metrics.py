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
"""Metrics against values worked out by hand, and the rules for what counts."""
import math

import numpy as np
import pytest

from steer_depth_ros.evaluation.metrics import average, measure, NAMES


def test_values_by_hand():
    truth = np.array([[2.0, 4.0], [10.0, 0.0]])
    estimate = np.array([[2.0, 5.0], [8.0, 7.0]])
    result = measure(estimate, truth)
    assert result['rmse'] == pytest.approx(math.sqrt((0 + 1 + 4) / 3))
    assert result['mae'] == pytest.approx(1.0)
    assert result['rel'] == pytest.approx((0 + 0.25 + 0.2) / 3)
    assert result['log10'] == pytest.approx(2 * math.log10(1.25) / 3)
    assert result['irmse'] == pytest.approx(math.sqrt((50 ** 2 + 25 ** 2) / 3))
    assert result['imae'] == pytest.approx((50 + 25) / 3)
    assert result['delta_1.02'] == pytest.approx(1 / 3)
    # 5 / 4 and 10 / 8 are 1.25, and the share is of ratios below it.
    assert result['delta_1.25'] == pytest.approx(1 / 3)
    assert result['delta_1.25^2'] == 1 and result['coverage'] == 1


@pytest.mark.parametrize('ratio, hits', [
    (1.019, 6), (1.021, 5), (1.049, 5), (1.051, 4), (1.099, 4), (1.101, 3), (1.249, 3), (1.251, 2),
    (1.562, 2), (1.563, 1), (1.953, 1), (1.954, 0)])
def test_every_delta_has_its_limit_in_both_directions(ratio, hits):
    truth = np.full((3, 3), 5.0)
    for estimate in (truth * ratio, truth / ratio):
        result = measure(estimate, truth)
        assert sum(v for n, v in result.items() if n.startswith('delta')) == hits


@pytest.mark.parametrize('unknown', [np.nan, 0.0, -1.0, np.inf])
def test_pixels_without_estimate_cost_coverage_and_deltas_but_no_error(unknown):
    truth = np.full((2, 2), 3.0)
    result = measure(np.array([[3.0, 3.0], [3.0, unknown]]), truth)
    assert result['rmse'] == 0 and result['rel'] == 0
    assert result['coverage'] == 0.75 and result['delta_1.02'] == 0.75


@pytest.mark.parametrize('unknown', [np.nan, 0.0, -1.0, np.inf])
def test_pixels_without_truth_do_not_count(unknown):
    result = measure(np.array([[3.0, 99.0]]), np.array([[3.0, unknown]]))
    assert result['rmse'] == 0 and result['coverage'] == 1 and result['delta_1.02'] == 1


def test_mask():
    truth, mask = np.full((1, 2), 3.0), np.array([[True, False]])
    assert measure(np.array([[3.0, 9.0]]), truth, mask)['mae'] == 0
    assert measure(np.array([[3.0, 9.0]]), truth, ~mask)['mae'] == 6


def test_nothing_to_count_and_nothing_covered():
    nothing = measure(np.ones((2, 2)), np.zeros((2, 2)))
    assert set(nothing) == set(NAMES) and all(math.isnan(v) for v in nothing.values())
    uncovered = measure(np.full((2, 2), np.nan), np.ones((2, 2)))
    assert math.isnan(uncovered['rmse'])
    assert uncovered['coverage'] == 0 and uncovered['delta_1.25'] == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match='shape'):
        measure(np.ones((2, 2)), np.ones((2, 3)))


def test_average_is_per_frame():
    assert math.isnan(average([])['rmse'])
    mean = average([measure(np.full((1, 1), 2.0), np.full((1, 1), 1.0)),
                    measure(np.full((9, 9), 4.0), np.full((9, 9), 1.0)),
                    measure(np.full((1, 1), np.nan), np.full((1, 1), 1.0))])
    assert mean['rmse'] == pytest.approx(2.0)  # (1 + 3) / 2, however many pixels each has
    assert mean['coverage'] == pytest.approx(2 / 3)
