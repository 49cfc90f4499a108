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
Every fault that can be injected: a name, a sentence, and what the node must say about it.

A fault sends bad input through the rig, then leaves everything as it was. What it sends through
`send_healthy_...` may lead to outputs, which must be right; anything else must lead to none.
"""
from typing import Callable, Dict, NamedTuple, Tuple

import numpy as np

from steer_depth_ros.geometry.camera import Camera

from .rig import CAMERA, MS, PERIOD_NS

SECOND = 1000 * MS
STORM = 40  # requests
AT_ONCE = 8  # the middleware keeps ten of them
STORMY = {  # values that may change at run time, among them ones to be refused
    'slop_s': (0.03, 0.05, -1.0, 'wide'), 'min_depth_m': (0.1, 0.5, 5e4), 'max_depth_m': (
        50.0, 1000.0, 0.0), 'image_scale': (0.5, 1.0, 7.0), 'depth_encoding': (
        '32FC1', '16UC1', '8UC1'), 'min_confidence': (0.0, 0.1, 2.0), 'cloud_stride': (1, 2, 0),
    'time_offset_s': (0.0, 0.01), 'preset': ('default', 'nonsense'), 'tf_timeout_s': (0.1, 0.05)}
CALM = {'slop_s': 0.05, 'min_depth_m': 0.1, 'max_depth_m': 1000.0, 'image_scale': 1.0,
        'depth_encoding': '32FC1', 'min_confidence': 0.0, 'cloud_stride': 1,
        'time_offset_s': 0.0, 'tf_timeout_s': 0.1}


class Fault(NamedTuple):
    """
    A fault.

    text: what it is. noticed: counters of the diagnostics of which one must grow, none where
    nothing is lost or a count would say nothing. tf: needs transforms. rare: slow to inject.
    """

    text: str
    inject: Callable
    noticed: Tuple[str, ...] = ()
    tf: bool = False
    rare: bool = False


FAULTS: Dict[str, Fault] = {}


def fault(text, *noticed, tf=False, rare=False):
    def register(inject):
        FAULTS[inject.__name__] = Fault(text, inject, noticed, tf, rare)
        return inject
    return register


# Sensors that are silent, and stamps


@fault('both sensors silent for 0.3 to 3 s')
def silence(rig, rng):
    rig.tick(int(rng.integers(3, 30)))
    rig.spin(0.02)


@fault('images silent for 3 to 30 frames', 'depth_unmatched', 'depth_overflow')
def image_silence(rig, rng):
    for _ in range(rng.integers(3, 30)):
        serial = rig.tick()
        rig.send_healthy_cloud(rig.now - rig.lag_ns, serial)


@fault('clouds silent for 3 to 30 frames', 'image_unmatched', 'image_overflow')
def depth_silence(rig, rng):
    for _ in range(rng.integers(3, 30)):
        serial = rig.tick()
        rig.send_healthy_image(rig.now, serial)


@fault('stamps of one or both sensors jump by 1 s to 3 h and come back', 'resets')
def stamps_jump(rig, rng):
    jump = int(rng.integers(SECOND, 10_000 * SECOND)) * int(rng.choice([-1, 1]))
    which = int(rng.integers(3))
    for _ in range(rng.integers(1, 4)):
        serial = rig.tick()
        rig.send_healthy_cloud(rig.now - rig.lag_ns + (which != 0) * jump, serial)
        rig.send_healthy_image(rig.now + (which != 1) * jump, serial)


@fault('the clock of both sensors jumps by 1 s to 3 h and stays')
def clock_jumps(rig, rng):
    rig.now += int(rng.integers(SECOND, 10_000 * SECOND)) * int(rng.choice([-1, 1]))


@fault('1 to 5 messages repeat the stamp of the one before', 'image_repeated', 'depth_repeated')
def stamps_repeat(rig, rng):
    rig.pair()
    for _ in range(rng.integers(1, 6)):
        rig.serial += 1
        if rng.random() < 0.5:
            rig.send_healthy_image(rig.now, rig.serial)
        else:
            rig.send_healthy_cloud(rig.now - rig.lag_ns, rig.serial)


@fault('stamps run backwards for 3 to 8 frames', 'resets', 'image_out_of_order',
       'depth_out_of_order')
def stamps_backwards(rig, rng):
    step = int(rng.integers(10 * MS, SECOND))
    for i in range(1, int(rng.integers(4, 9))):
        rig.serial += 1
        rig.send_pair(rig.now - i * step)
    rig.tick(10)


@fault('image, cloud or both without a stamp (zero)', 'image_unstamped', 'depth_unstamped')
def stamps_zero(rig, rng):
    which = int(rng.integers(3))
    for _ in range(rng.integers(1, 4)):
        serial = rig.tick()
        if which != 0:
            rig.points.publish(rig.cloud_msg(0, rig.wall(serial)))
        else:
            rig.send_healthy_cloud(rig.now - rig.lag_ns, serial)
        if which != 1:
            rig.image.publish(rig.image_msg(0, serial))
        else:
            rig.send_healthy_image(rig.now, serial)


@fault('ten pairs in the time of one')
def burst(rig, rng):
    for _ in range(10):
        rig.tick(0.1)
        rig.send_pair(wait=0)


@fault('ten images in the time of one', 'image_superseded', 'image_unmatched', 'image_overflow',
       'image_out_of_order')
def burst_of_images(rig, rng):
    rig.pair()
    for _ in range(9):
        serial = rig.tick(0.1)
        rig.send_healthy_image(rig.now, serial)


@fault('ten clouds in the time of one', 'depth_superseded', 'depth_unmatched', 'depth_overflow',
       'depth_out_of_order')
def burst_of_clouds(rig, rng):
    rig.pair()
    for _ in range(9):
        serial = rig.tick(0.1)
        rig.send_healthy_cloud(rig.now - rig.lag_ns, serial)


# Messages


def bad_image(rig, **changes):
    """Send a healthy cloud with an image that is not."""
    serial = rig.tick()
    rig.send_healthy_cloud(rig.now - rig.lag_ns, serial)
    msg = rig.image_msg(rig.now, serial)
    for name, value in changes.items():
        setattr(msg, name, value)
    rig.image.publish(msg)
    rig.spin(0.03)


def bad_cloud(rig, change):
    """Send a healthy image with a cloud that `change(msg)` spoils."""
    serial = rig.tick()
    stamp = rig.now - rig.lag_ns
    msg = rig.cloud_msg(stamp, rig.wall(serial))
    change(msg)
    rig.send_tf(stamp)
    rig.points.publish(msg)
    rig.send_healthy_image(rig.now, serial)
    rig.spin(0.03)


@fault('image with less data than height * step', 'MessageError')
def image_truncated(rig, rng):
    whole = rig.image_msg(0, 0).data
    bad_image(rig, data=whole[:rng.integers(len(whole))])


@fault('image with more data than height * step', 'MessageError')
def image_oversized(rig, rng):
    bad_image(rig, data=rig.image_msg(0, 0).data + rig.image_msg(0, 0).data[:rng.integers(1, 999)])


@fault('image without rows, columns or data', 'MessageError')
def image_empty(rig, rng):
    changes = [{'height': 0}, {'width': 0}, {'data': []}, {'height': 0, 'width': 0, 'data': []}]
    bad_image(rig, **changes[rng.integers(len(changes))])


@fault('image with a step too small, or a width that contradicts it', 'MessageError')
def image_step(rig, rng):
    changes = [{'step': 287}, {'width': 97}, {'width': 2**31}, {'height': 2**32 - 1}]
    bad_image(rig, **changes[rng.integers(len(changes))])


@fault('image of an unknown encoding', 'MessageError')
def image_encoding(rig, rng):
    bad_image(rig, encoding=str(rng.choice(['', 'rgb7', '32FC1', 'rgb8; DROP'])))


@fault('cloud with less data than its size', 'MessageError')
def cloud_truncated(rig, rng):
    def change(msg):
        msg.data = msg.data[:rng.integers(len(msg.data))]
    bad_cloud(rig, change)


@fault('cloud with more data than its size: the points are there, and used')
def cloud_oversized(rig, rng):
    serial = rig.tick()
    msg = rig.cloud_msg(rig.now - rig.lag_ns, rig.wall(serial))
    msg.data = msg.data + msg.data[:rng.integers(1, 999)]
    rig.send_pair(serial=serial, msg=msg)


@fault('cloud without points', 'no_points_in_image')
def cloud_empty(rig, rng):
    def change(msg):
        msg.width, msg.row_step, msg.data = 0, 0, []
    bad_cloud(rig, change)


@fault('cloud with a point_step too small, row_step too small, or a size that contradicts both',
       'MessageError')
def cloud_steps(rig, rng):
    changes = [{'point_step': 0}, {'point_step': 8}, {'point_step': 11}, {'width': 2**31},
               {'height': 2, 'row_step': 100}, {'height': 2**31}]

    def change(msg):
        for name, value in changes[rng.integers(len(changes))].items():
            setattr(msg, name, value)
    bad_cloud(rig, change)


@fault('cloud whose fields x, y, z overlap, are missing, beyond the point or of another type',
       'MessageError')
def cloud_fields(rig, rng):
    def change(msg):
        field = msg.fields[rng.integers(3)]
        kind = rng.integers(4)
        if kind == 0:
            other = msg.fields[(msg.fields.index(field) + 1) % 3]
            field.offset = other.offset + int(rng.integers(4))
        elif kind == 1:
            msg.fields = [one for one in msg.fields if one is not field]
        elif kind == 2:
            field.offset = int(rng.integers(13, 2**31))
        else:
            field.datatype = int(rng.choice([0, 1, 2, 5, 9, 255]))
    bad_cloud(rig, change)


@fault('cloud in big-endian byte order: read as it says')
def cloud_big_endian(rig, rng):
    serial = rig.tick()
    points = rig.wall(serial)
    msg = rig.cloud_msg(rig.now - rig.lag_ns, points)
    msg.data, msg.is_bigendian = list(points.astype('>f4').tobytes()), True
    rig.send_pair(serial=serial, msg=msg)


# Coordinates


BAD = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38], np.float32)


@fault('every coordinate NaN, infinite or huge', 'no_points_in_image')
def points_not_finite(rig, rng):
    def change(msg):
        values = rng.choice(BAD, (len(rig.wall(0)), 4))
        msg.data = list(values.tobytes())
    bad_cloud(rig, change)


@fault('a third of the points NaN, infinite or huge: the others are used')
def points_partly_not_finite(rig, rng):
    serial = rig.tick()
    points = rig.wall(serial)
    chosen = rng.random(len(points)) < 0.3
    points[chosen, :3] = rng.choice(BAD, (chosen.sum(), 3))
    rig.send_pair(serial=serial, msg=rig.cloud_msg(rig.now - rig.lag_ns, points))


@fault('every point behind the camera', 'no_points_in_image')
def points_behind(rig, rng):
    def change(msg):
        points = rig.wall(rig.serial)
        points[:, 2] *= -1
        msg.data = list(points.tobytes())
    bad_cloud(rig, change)


# Calibration


def bad_info(rig, **changes):
    """
    Send a camera_info that cannot be used, and a healthy pair.

    Where the pair overtakes the camera_info it may be answered, with the calibration of before.
    """
    rig.publish_info(**changes)
    rig.spin(0.02)
    rig.tick()
    rig.send_pair()
    rig.publish_info()
    rig.spin(0.02)


@fault('camera_info of zeros', 'CalibrationError')
def info_zero(rig, rng):
    changes = [{'k': [0.0] * 9}, {'width': 0, 'height': 0},
               {'k': [0.0] * 9, 'p': [0.0] * 12, 'd': [], 'width': 0, 'height': 0}]
    bad_info(rig, **changes[rng.integers(len(changes))])


@fault('camera_info that is not finite, negative, or of an unknown model', 'CalibrationError')
def info_nonsense(rig, rng):
    changes = [{'k': [np.nan] * 9}, {'k': [-80.0, 0, 47, 0, -80, 31, 0, 0, 1]},
               {'d': [np.inf] * 5}, {'d': [1e300] * 5}, {'d': [0.1] * 7},
               {'distortion_model': 'magic', 'd': [0.1]}]
    bad_info(rig, **changes[rng.integers(len(changes))])


@fault('camera_info of an image of another shape', 'CalibrationError')
def info_contradicts(rig, rng):
    changes = [{'width': 64, 'height': 96}, {'width': 96, 'height': 640}, {'binning_x': 4}]
    bad_info(rig, **changes[rng.integers(len(changes))])


@fault('camera_info with other intrinsics for each frame: each is used')
def info_changes(rig, rng):
    for _ in range(rng.integers(1, 4)):
        f = float(rng.integers(70, 90))
        rig.cameras = [*rig.cameras[:1], *rig.cameras[-5:], Camera(96, 64, f, f, 47.5, 31.5)]
        rig.publish_info(rig.cameras[-1])
        rig.pair()
        rig.spin(0.02)
    rig.publish_info(CAMERA)
    rig.spin(0.02)


# Transforms


@fault('no transform for 1 to 3 frames', 'TransformError', tf=True)
def tf_breaks(rig, rng):
    for _ in range(rng.integers(1, 4)):
        rig.tick()
        rig.send_pair(tf=False, wait=0)
    rig.spin(0.13)


@fault('a transform that closes a loop of frames', tf=True)
def tf_loops(rig, rng):
    parent, child = (('camera', 'base'), ('lidar', 'base'))[rng.integers(2)]
    rig.send_tf(rig.now, parent, child)
    rig.pair()
    rig.spin(0.02)


@fault('the LiDAR is moved by up to 1 m from one frame to the next', tf=True)
def tf_changes(rig, rng):
    rig.lidar_z = float(rng.uniform(-0.5, 0.5))
    rig.pair()


@fault('transforms without length, not finite, or without a name', tf=True)
def tf_nonsense(rig, rng):
    rig.send_tf(rig.now + PERIOD_NS // 2, w=float(rng.choice([0.0, np.nan, np.inf])))
    rig.send_tf(rig.now + PERIOD_NS // 2, child=str(rng.choice(['', '/', 'base'])))
    rig.pair()


@fault('a transform stamped 1 s to 3 h too late or too early, or zero', tf=True)
def tf_stamps(rig, rng):
    jump = int(rng.integers(SECOND, 10_000 * SECOND)) * int(rng.choice([-1, 1]))
    rig.send_tf((0, rig.now + jump)[rng.integers(2)])
    rig.spin(0.01)


@fault('the LiDAR gets another parent, of no known place', tf=True)
def tf_reparents(rig, rng):
    rig.send_tf(rig.now + PERIOD_NS // 2, parent='mast')
    rig.spin(0.01)


# Parameters, memory, load, processes


@fault(f'{STORM} changes of parameters at once, a third of them refused, among frames')
def parameter_storm(rig, rng):
    rig.scales, futures = {0.5, 1.0}, []
    for i in range(STORM):
        name = str(rng.choice(list(STORMY)))
        value = STORMY[name][rng.integers(len(STORMY[name]))]
        futures.append(rig.set_async(**{name: value}))
        if i % AT_ONCE == AT_ONCE - 1:
            rig.pair()
            assert rig.spin_until(lambda: all(one.done() for one in futures), 10.0)
    results = rig.set(**CALM)
    assert all(one.successful for one in results), results


@fault('no memory left on the device for 1 to 3 frames', 'DeviceMemoryError')
def device_memory(rig, rng):
    out_of_memory(rig, rng, 'cuda memory')


@fault('no memory left on the host for 1 to 3 frames', 'DeviceMemoryError')
def host_memory(rig, rng):
    out_of_memory(rig, rng, 'host memory')


def out_of_memory(rig, rng, order):
    rig.tell(order)
    for _ in range(rng.integers(1, 4)):
        rig.tick()
        rig.send_pair()
    rig.tell()


@fault('the model ten times slower than the sensors', 'busy')
def overload(rig, rng):
    rig.tell('slow 0.05')
    for _ in range(6):
        rig.pair(wait=0)
        rig.spin(0.005)
    rig.tell()
    rig.spin(0.05)


@fault('kill -9 of the node, and its restart', rare=True)
def node_killed(rig, rng):
    rig.pair()
    rig.restart()
