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
"""Every model agrees with OpenCV, inverts, and refuses what it cannot see."""
import cv2
from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from steer_depth_ros.errors import CalibrationError
from steer_depth_ros.geometry.camera import Camera

CAMERAS = {
    'rectified': Camera(1242, 375, 721.5, 721.5, 609.6, 172.9),
    'kitti raw': Camera(1392, 512, 984.2, 980.8, 690.0, 233.2, 'plumb_bob',
                        (-0.3728755, 0.2037299, 0.002219027, 0.001383707, -0.07233722)),
    'four coefficients': Camera(1600, 900, 1266.4, 1266.4, 816.3, 491.5, 'plumb_bob',
                                (-0.29, 0.08, 0.0005, -0.0003)),
    'rational': Camera(1280, 720, 610.0, 609.0, 638.0, 365.0, 'rational_polynomial',
                       (0.16, -2.68, 0.0005, 0.0001, 1.62, 0.03, -2.5, 1.54)),
    'thin prism and tilt': Camera(1280, 720, 610.0, 609.0, 638.0, 365.0, 'rational_polynomial',
                                  (0.1, -0.1, 0.0005, 0.0001, 0.05, 0.02, -0.1, 0.04,
                                   0.001, -0.002, 0.001, 0.0005, 0.02, -0.03)),
    'fisheye': Camera(848, 800, 286.2, 286.3, 416.9, 403.3, 'equidistant',
                      (-0.0076, 0.0422, -0.0397, 0.0067)),
    'fisheye 190': Camera(1000, 1000, 301.0, 301.0, 500.0, 500.0, 'equidistant',
                          (0.0, 0.0, 0.0, 0.0)),
}
each_camera = pytest.mark.parametrize('camera', CAMERAS.values(), ids=CAMERAS.keys())


def pixels(camera, count=4000):
    rng = np.random.default_rng(5)
    return rng.random((count, 2)) * [camera.width, camera.height] - 0.5


def opencv(points, camera):
    k = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    zero, d = np.zeros(3), np.array(camera.distortion or (0.0,) * 4)
    if camera.model == 'equidistant':
        return cv2.fisheye.projectPoints(points[None], zero, zero, k, d)[0][0]
    return cv2.projectPoints(points, zero, zero, k, d)[0][:, 0]


@each_camera
def test_round_trip_and_opencv(camera):
    uv = pixels(camera)
    rays, valid = camera.unproject(uv)
    assert valid.all() or camera.model == 'equidistant'
    assert valid.mean() > 0.6
    assert np.isnan(rays[~valid]).all()
    back, seen = camera.project(rays[valid] * 7.0)
    assert seen.all()
    assert np.abs(back - uv[valid]).max() < 1e-4
    assert np.abs(back - opencv(rays[valid], camera)).max() < 1e-6


def test_random_cameras_invert():
    rng = np.random.default_rng(11)
    for _ in range(60):
        model = rng.choice(['plumb_bob', 'rational_polynomial', 'equidistant'])
        scale = {'plumb_bob': (.4, .2, .003, .003, .1), 'equidistant': (.1, .05, .02, .01),
                 'rational_polynomial': (.4, .3, .003, .003, .1, .3, .2, .1)}[model]
        focal = rng.uniform(300, 1500)
        camera = Camera(640, 480, focal, focal * rng.uniform(.9, 1.1), rng.uniform(280, 360),
                        rng.uniform(200, 280), str(model), tuple(rng.uniform(-1, 1) * s
                                                                 for s in scale))
        uv = pixels(camera, 500)
        rays, valid = camera.unproject(uv)
        back, seen = camera.project(rays[valid])
        assert seen.all()
        assert np.abs(back - uv[valid]).max(initial=0) < 0.01
        # A point that projects into the image comes back as the same direction.
        points = np.concatenate([rng.uniform(-1, 1, (500, 2)), np.ones((500, 1))], 1)
        found, seen = camera.project(points)
        again, valid = camera.unproject(found[seen])
        steep = np.hypot(*points[seen, :2].T) > 0.9 * camera.max_radius
        assert valid[~steep].all()
        assert np.abs(again - points[seen])[~steep].max(initial=0) < 1e-4


@st.composite
def lenses(draw):
    """Cameras of any model with coefficients as lenses have them, mild to severe."""
    model = draw(st.sampled_from(['pinhole', 'plumb_bob', 'rational_polynomial', 'equidistant']))
    scale = {'pinhole': (), 'plumb_bob': (.5, .3, .005, .005, .2),
             'equidistant': (.15, .08, .04, .02),
             'rational_polynomial': (.5, .4, .005, .005, .2, .4, .3, .2)}[model]
    part = st.floats(-1, 1)
    focal = draw(st.floats(200, 2000))
    return Camera(640, 480, focal, focal * draw(st.floats(.8, 1.25)), draw(st.floats(200, 440)),
                  draw(st.floats(150, 330)), model, tuple(draw(part) * s for s in scale))


@settings(max_examples=150, deadline=None)
@given(lenses(), st.integers(0, 2**32 - 1))
def test_a_pixel_that_has_a_ray_is_seen_again_in_its_place(camera, seed):
    rng = np.random.default_rng(seed)
    uv = rng.uniform((-0.5, -0.5), (639.5, 479.5), (300, 2))
    rays, valid = camera.unproject(uv)
    assert np.isnan(rays[~valid]).all() and np.isfinite(rays[valid]).all()
    back, seen = camera.project(rays[valid] * rng.uniform(0.1, 100, (valid.sum(), 1)))
    assert seen.all()
    assert np.abs(back - uv[valid]).max(initial=0) < 0.01
    assert np.hypot(*rays[valid, :2].T).max(initial=0) <= camera.max_radius


@settings(max_examples=150, deadline=None)
@given(lenses(), st.floats(0, 2 * np.pi), st.floats(1.0, 50.0))
def test_what_lies_outside_the_field_of_view_is_refused(camera, angle, beyond):
    if not np.isfinite(camera.max_radius):
        return
    radius = camera.max_radius * beyond + 1e-9
    uv, valid = camera.project(np.array([[radius * np.cos(angle), radius * np.sin(angle), 1.0]]))
    assert not valid.any() and np.isnan(uv).all()
    if camera.model == 'equidistant':
        # The image of the widest angle ends the picture: pixels beyond it have no ray.
        edge = np.arctan(camera.max_radius)
        powers = edge ** np.arange(1, 10, 2)
        reach = 1.001 * beyond * (powers * (1.0, *camera.distortion)).sum()
        pixel = reach * np.array([camera.fx * np.cos(angle), camera.fy * np.sin(angle)])
        rays, valid = camera.unproject(pixel[None] + (camera.cx, camera.cy))
        assert not valid.any() and np.isnan(rays).all()


@settings(max_examples=150, deadline=None)
@given(lenses(), st.lists(st.tuples(*[st.floats(width=64)] * 3), min_size=1, max_size=20))
@example(Camera(640, 480, 200.0, 200.0, 200.0, 150.0), [(0.0, 9e305, 1.0)])
def test_any_numbers_give_a_place_or_nothing(camera, numbers):
    points = np.array(numbers)
    uv, valid = camera.project(points)
    assert np.isfinite(uv[valid]).all() and np.isnan(uv[~valid]).all()
    assert (points[valid, 2] > 0).all()
    rays, valid = camera.unproject(points[:, :2])
    assert np.isfinite(rays[valid]).all() and np.isnan(rays[~valid]).all()


@each_camera
def test_never_behind_nor_without_numbers(camera):
    points = np.array([[0, 0, -1], [0.1, 0.1, 0], [np.nan, 0, 1], [0, np.inf, 1], [0, 0, np.inf],
                       [0, 0, np.nan], [-3, 2, -8], [0.0, 0.0, 2.0]])
    uv, valid = camera.project(points)
    assert valid.tolist() == [False] * 7 + [True]
    assert np.isnan(uv[:7]).all() and np.isfinite(uv[7]).all()


@pytest.mark.parametrize('name', ['kitti raw', 'rational'])
def test_points_that_fold_back_are_refused(name):
    camera = CAMERAS[name]
    x = np.linspace(0, 6, 4001)
    points = np.stack([x, 0 * x, np.ones_like(x)], 1)
    folded = opencv(points, camera)[:, 0]
    _, valid = camera.project(points)
    beyond = x > camera.max_radius
    assert folded[beyond].min() < folded[~beyond].max()  # OpenCV draws these over others
    assert not valid[beyond].any()
    assert (np.diff(folded[~beyond]) > 0).all()


def test_fisheye_that_folds_back_is_refused():
    camera = Camera(800, 800, 300.0, 300.0, 400.0, 400.0, 'equidistant', (0.0, -0.2, 0.0, 0.0))
    angle = np.linspace(0, 1.5, 1001)
    uv, valid = camera.project(np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1))
    assert np.isclose(np.arctan(camera.max_radius), 1.0, atol=1e-6)  # 1 = 5 * 0.2 * angle^4
    assert (valid == (angle < 1.0)).all()
    assert (np.diff(uv[valid, 0]) > 0).all()


@pytest.mark.parametrize('d', [(0.1, 1e-310, 0, 0, 1e-300), (-1e6, 1e6, 0, 0, 1e-200)])
def test_numbers_at_the_limits_of_floats_still_make_a_camera(d):
    camera = Camera(640, 480, 1e-300, 1e300, 320, 240, 'plumb_bob', d)
    with np.errstate(all='raise'):
        assert camera.max_radius > 0 and camera.bounds[0] <= camera.bounds[1]
        camera.unproject(np.array([[1e6, -1e6]]))


def test_sideways_rays_of_a_fisheye_are_invalid():
    camera = CAMERAS['fisheye 190']
    rays, valid = camera.unproject(np.array([[500.0, 500.0], [500 + 301 * 1.5, 500.0],
                                             [500 + 301 * 1.6, 500.0]]))
    assert valid.tolist() == [True, True, False]
    assert np.allclose(rays[1], [np.tan(1.5), 0, 1])


@each_camera
def test_rays_are_those_of_the_pixels(camera):
    rays = camera.rays()
    assert rays.shape == (camera.height, camera.width, 3) and rays.dtype == np.float32
    assert rays is camera.rays()
    expected, valid = camera.unproject(np.array([[40.0, camera.height // 2]]))
    assert valid and np.allclose(rays[camera.height // 2, 40], expected, rtol=1e-6)


@each_camera
def test_bounds_hold_the_whole_image(camera):
    rays, valid = camera.unproject(pixels(camera))
    left, right, top, bottom = camera.bounds
    x, y = rays[valid, 0], rays[valid, 1]
    assert x.min() >= left and x.max() <= right and y.min() >= top and y.max() <= bottom


def test_resized_cropped_and_binned_see_the_same():
    camera = CAMERAS['kitti raw']
    point = np.array([[0.3, -0.1, 2.0]])
    (u, v), = camera.project(point)[0]
    assert np.allclose(camera.scaled(696, 256).project(point)[0], [(u + .5) / 2 - .5,
                                                                   (v + .5) / 2 - .5])
    assert camera.scaled(696, 256) == camera.binned(2, 2)
    assert np.allclose(camera.cropped(10, 20, 300, 200).project(point)[0], [u - 10, v - 20])
    assert (camera.binned(0, 0), camera.scaled(1392, 512)) == (camera, camera)
    # The corner of the image stays its corner.
    corner = camera.scaled(100, 50)
    assert np.isclose((-0.5 - corner.cx) / corner.fx, (-0.5 - camera.cx) / camera.fx)


K = (700.0, 0, 320, 0, 710, 240, 0, 0, 1)
P = (600.0, 0, 310, 0, 0, 600, 230, 0, 0, 0, 1, 0)


def test_from_camera_info():
    raw = Camera.from_calibration(640, 480, K, (-.3, .1, 0, 0, 0), 'plumb_bob', P)
    assert raw == Camera(640, 480, 700, 710, 320, 240, 'plumb_bob', (-.3, .1, 0, 0, 0))
    rectified = Camera.from_calibration(640, 480, K, (-.3, .1, 0, 0, 0), 'plumb_bob', P, True)
    assert rectified == Camera(640, 480, 600, 600, 310, 230)
    for d, model in (((), ''), ((), 'plumb_bob'), ((0.0,) * 5, 'plumb_bob'),
                     ((0.0,) * 8, 'rational_polynomial'), (np.zeros(5), 'plumb_bob')):
        assert Camera.from_calibration(640, 480, K, d, model).model == 'pinhole'
    for count in (5, 8, 12, 14):
        d = np.full(count, 0.01)
        camera = Camera.from_calibration(640, 480, K, d, 'rational_polynomial')
        assert len(camera.distortion) == count
    # Four zeros still describe a fisheye, not a pinhole.
    fisheye = Camera.from_calibration(640, 480, K, (0.0,) * 4, 'equidistant')
    assert fisheye.model == 'equidistant'


@pytest.mark.parametrize('change, words', [
    ({'k': (0.0,) * 9}, ['uncalibrated', 'calibrate']),
    ({'k': (1.0, 2.0)}, ['K has 2']),
    ({'model_name': 'double_sphere'}, ['double_sphere', 'plumb_bob', 'equidistant']),
    ({'model_name': 'none', 'd': (.1,) * 5}, ['none', 'not applied', 'plumb_bob']),
    ({'model_name': 'Inverse Brown Conrady', 'd': (.1,) * 5}, ['Inverse', 'not applied']),
    ({'model_name': 'omni', 'd': ()}, ['omni', 'rectify']),
    ({'d': (.1,) * 3}, ['3 coefficients', '4 or 5']),
    ({'d': (.1,) * 6, 'model_name': 'rational_polynomial'}, ['6 coefficients']),
    ({'d': (.1,) * 5, 'model_name': 'equidistant'}, ['5 coefficients', 'takes 4']),
    ({'rectified': True, 'p': None}, ['P has 0', 'raw']),
    ({'rectified': True, 'p': (0.0,) * 12}, ['P[0] is 0']),
    ({'width': 0}, ['0 x 480']),
    ({'k': (-700.0, 0, 320, 0, 710, 240, 0, 0, 1)}, ['positive']),
    ({'d': (np.nan,) * 5}, ['finite']),
    ({'d': (1e300, 1, 0, 0, 0)}, ['real lens']),
])
def test_calibrations_that_cannot_be_used(change, words):
    given = {'width': 640, 'height': 480, 'k': K, 'd': (-.3, .1, 0, 0, 0),
             'model_name': 'plumb_bob', 'p': P, **change}
    with pytest.raises(CalibrationError) as caught:
        Camera.from_calibration(**given)
    for word in words:
        assert word in str(caught.value)


BROWN = (-.05, .01, .001, -.002)
EIGHT = (.5, -2.5, .0001, -.0001, 1.5, .4, -2.3, 1.4)
FISHEYE = (-.01, .003, -.001, .0002)


@pytest.mark.parametrize('name, d, model, kept', [
    ('', BROWN, 'plumb_bob', 4), ('', (*BROWN, .1), 'plumb_bob', 5),
    ('', EIGHT, 'rational_polynomial', 8), ('none', (0,) * 5, 'pinhole', 0),
    ('pinhole', (0,) * 5, 'pinhole', 0), ('pinhole', BROWN, 'plumb_bob', 4),
    ('radtan', BROWN, 'plumb_bob', 4), ('Brown_Conrady', (*BROWN, 0), 'plumb_bob', 4),
    ('Brown-Conrady', (*BROWN, .1), 'plumb_bob', 5), ('radtan8', EIGHT, 'rational_polynomial', 8),
    ('plumb_bob', EIGHT, 'rational_polynomial', 8), ('plumb_bob', (*BROWN, 0), 'plumb_bob', 5),
    ('plumb_bob', (*BROWN, .1, *(0,) * 9), 'plumb_bob', 5),
    ('plumb_bob', (*BROWN, 0, 0), 'plumb_bob', 4),
    ('rational_polynomial', BROWN, 'plumb_bob', 4),
    ('rational_polynomial', (*EIGHT, 0, 0, 0, 0, .01, .02), 'rational_polynomial', 14),
    ('fisheye', FISHEYE, 'equidistant', 4), ('Kannala-Brandt', FISHEYE, 'equidistant', 4),
    ('KANNALA_BRANDT4', (*FISHEYE, 0), 'equidistant', 4),
    ('equidistant', (*FISHEYE, *(0,) * 10), 'equidistant', 4),
    ('equi', (0,) * 5, 'equidistant', 4)])
def test_names_and_counts_of_the_wild_give_the_lens_that_opencv_has(name, d, model, kept):
    camera = Camera.from_calibration(640, 480, K, d, name)
    assert (camera.model, camera.distortion) == (model, tuple(map(float, d[:kept])))
    points = np.random.default_rng(3).uniform((-.4, -.3, 1), (.4, .3, 1), (50, 3))
    matrix, zero = np.reshape(K, (3, 3)).astype(float), np.zeros(3)
    if model == 'equidistant':
        expected = cv2.fisheye.projectPoints(points[None], zero, zero, matrix, np.array(
            d[:4], float))[0][0]
    else:
        given = np.array(d, float) if len(d) in (4, 5, 8, 12, 14) else np.array(d[:4], float)
        expected = cv2.projectPoints(points, zero, zero, matrix, given)[0][:, 0]
    assert np.abs(camera.project(points)[0] - expected).max() < 1e-6
