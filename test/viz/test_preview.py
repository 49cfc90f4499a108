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
import cv2
import numpy as np
import pytest
from sample_recordings import CAMERA, cloud_frames, SIZE

from steer_depth_ros.errors import FrameError
from steer_depth_ros.viz import preview
from steer_depth_ros.viz.cloud_view import BACKGROUND, view_cloud


def row(**changes):
    recorded = next(cloud_frames(1))
    samples = recorded.frame.sparse_depth()
    values = {'image': recorded.frame.image, 'uv': samples.uv, 'sample_depth': samples.depth,
              'depth': recorded.truth, 'confidence': np.ones(SIZE, np.float32), 'camera': CAMERA,
              'truth': recorded.truth}
    return preview.SheetRow(**{**values, **changes})


def test_depth_range_ignores_unknown_depth():
    depth = np.array([np.nan, np.inf, -1.0, 0.0, *np.linspace(2, 20, 1000)], np.float32)
    near, far = preview.depth_range(depth)
    assert 2.0 <= near < 2.2 and 19.8 < far <= 20.0
    assert preview.depth_range(np.full((2, 2), np.nan)) == (1.0, 10.0)
    near, far = preview.depth_range(np.full(9, 3.0))
    assert near < far


def test_near_is_red_and_far_is_blue():
    picture = preview.color_depth(np.array([[1.0, 50.0]], np.float32), 1.0, 50.0)
    near, far = picture[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]


def test_unknown_depth_is_hatched_in_two_grays():
    picture = preview.color_depth(np.full((40, 40), np.nan, np.float32), 1.0, 10.0)
    found = {tuple(int(c) for c in pixel) for pixel in picture.reshape(-1, 3)}
    assert found == set(preview.UNKNOWN)


def test_error_colors_brighten_with_the_error_and_skip_unknown_depth():
    truth = np.array([[10.0, 10.0, 10.0, np.nan]], np.float32)
    depth = np.array([[10.0, 10.5, 20.0, 5.0]], np.float32)
    brightness = preview.color_error(depth, truth)[0].astype(int).sum(axis=1)
    assert brightness[0] < brightness[1] < brightness[2]
    assert tuple(preview.color_error(depth, truth)[0, 3]) in preview.UNKNOWN


def test_confidence_colors_brighten_with_confidence():
    picture = preview.color_confidence(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.all(np.diff(picture[0].astype(int).sum(axis=1)) > 0)


def test_near_samples_are_drawn_over_far_ones():
    uv = np.array([[10, 10], [10, 10]], np.float32)
    for depth in ([1.0, 9.0], [9.0, 1.0]):
        picture = preview.draw_samples(np.zeros((*SIZE, 3), np.uint8), uv,
                                       np.array(depth, np.float32), 1.0, 10.0)
        expected = preview.color_depth(np.array([[1.0]], np.float32), 1.0, 10.0)[0, 0]
        np.testing.assert_array_equal(picture[10, 10], expected)


def test_samples_scale_with_the_width_and_may_lie_outside_the_image():
    uv = np.array([[0, 0], [63, 47]], np.float32)
    picture = preview.draw_samples(np.zeros((*SIZE, 3), np.uint8), uv,
                                   np.array([1, 2], np.float32), 1.0, 10.0, width=128)
    assert picture.shape == (96, 128, 3)
    assert picture[0, 0].any() and picture[-1, -1].any()


def test_the_nearest_point_is_visible_in_the_cloud_view():
    # Red lies in front of blue along the line of sight of every pixel that both cover.
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    far = np.stack([x.ravel(), y.ravel(), np.full(x.size, 4.0)], 1)
    points = np.concatenate([far * 0.99, far]).astype(np.float32)
    red, blue = np.array([[255, 0, 0]], np.uint8), np.array([[0, 0, 255]], np.uint8)
    colors = np.concatenate([np.repeat(red, x.size, 0), np.repeat(blue, x.size, 0)])
    spacing = np.full(len(points), 0.2, np.float32)
    picture = view_cloud(points, colors, (120, 160), spacing)
    reds = (picture == red).all(axis=2).sum()
    blues = (picture == blue).all(axis=2).sum()
    assert reds > 20 * blues


def test_an_empty_cloud_shows_only_background():
    picture = view_cloud(np.full((5, 3), np.nan, np.float32), np.zeros((5, 3), np.uint8), (9, 9))
    assert (picture == BACKGROUND).all()


@pytest.mark.parametrize('changes', [
    {}, {'truth': None}, {'depth': np.full(SIZE, np.nan, np.float32)},
    {'uv': np.zeros((0, 2), np.float32), 'sample_depth': np.zeros(0, np.float32)}])
def test_contact_sheet_draws_any_row(changes):
    sheet = preview.contact_sheet([row(), row(**changes)])
    assert sheet.dtype == np.uint8 and sheet.shape[1:] == (preview.SHEET_WIDTH, 3)
    assert sheet.shape[0] > 300


def test_contact_sheet_needs_a_row():
    with pytest.raises(FrameError, match='no frame to draw'):
        preview.contact_sheet([])


def test_writes_rgb(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 255
    preview.write_picture(tmp_path / 'new' / 'p.png', picture)
    assert cv2.imread(str(tmp_path / 'new' / 'p.png'))[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(FrameError, match='cannot write the picture'):
        preview.write_picture(tmp_path / 'p.what', picture)
