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
"""Inputs are subscribed to as their publishers offer, over DDS, with publishers of every kind."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from node_rig import BASE, Rig, running  # noqa: E402
import rclpy  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
pytestmark = pytest.mark.usefixtures('context')


@pytest.fixture(scope='module')
def shared_rig():
    with running(*BASE) as rig:
        rig.node.destroy_publisher(rig.points)
        yield rig


@pytest.fixture
def stamps(stamps):
    return iter(stamps)


def publisher(rig, reliability, durability=DurabilityPolicy.VOLATILE):
    return rig.node.create_publisher(PointCloud2, 'points', QoSProfile(
        depth=10, reliability=reliability, durability=durability))


def subscription(rig, topic='points'):
    """Give the QoS with which the node is subscribed to one of its inputs, None if it is not."""
    found = rig.node.get_subscriptions_info_by_topic(f'{rig.namespace}/{topic}')
    return found[0].qos_profile if len(found) == 1 else None


def becomes(rig, reliability):
    """Wait until the node is subscribed to the points like that."""
    return rig.spin_until(lambda: (qos := subscription(rig)) is not None
                          and qos.reliability == reliability, 10.0)


def completes(rig, publisher, stamps):
    """Tell whether clouds of this publisher come to be depth (the first may find nobody yet)."""
    rig.points = publisher
    return any(rig.exchange(next(stamps), timeout=2.0) for _ in range(3))


@pytest.mark.parametrize('offered, taken', [
    ([RELIABLE], RELIABLE), ([BEST_EFFORT], BEST_EFFORT), ([RELIABLE, RELIABLE], RELIABLE),
    ([RELIABLE, BEST_EFFORT], BEST_EFFORT)],
    ids=['reliable', 'best effort', 'two reliable', 'mixed'])
def test_the_subscription_takes_what_every_publisher_offers(rig, stamps, offered, taken):
    publishers = [publisher(rig, reliability) for reliability in offered]
    rig.spin(0.5)
    rig.listen('depth/image')
    assert becomes(rig, taken), rig.said()
    assert all(completes(rig, one, stamps) for one in publishers), rig.said()
    for one in publishers:
        rig.node.destroy_publisher(one)


def test_publishers_that_come_and_go_are_followed(rig, stamps):
    rig.listen('depth/image')
    told = len(rig.said())
    first = publisher(rig, RELIABLE)
    assert becomes(rig, RELIABLE) and completes(rig, first, stamps)
    second = publisher(rig, BEST_EFFORT)
    assert becomes(rig, BEST_EFFORT)
    assert completes(rig, first, stamps) and completes(rig, second, stamps)
    rig.node.destroy_publisher(second)
    assert becomes(rig, RELIABLE) and completes(rig, first, stamps)
    rig.node.destroy_publisher(first)
    rig.spin(1.0)
    assert subscription(rig).reliability == RELIABLE  # the same driver may come back
    again = publisher(rig, RELIABLE)
    assert completes(rig, again, stamps)
    rig.node.destroy_publisher(again)
    other = publisher(rig, BEST_EFFORT)
    assert becomes(rig, BEST_EFFORT) and completes(rig, other, stamps)
    rig.node.destroy_publisher(other)
    lines = [line.partition('/points: ')[2] for line in rig.said()[told:].splitlines()
             if '/points: subscribed' in line]
    assert [line.partition(',')[0].removeprefix('subscribed ') for line in lines] == [
        'reliable', 'best effort', 'reliable', 'best effort'], lines
    assert lines[0].endswith('as its publisher offers')
    assert 'peer offers no more, though other publishers do' in lines[1]
    assert 'incompatible QoS' not in rig.said()


def test_a_camera_info_published_once_before_the_node_started(stamps):
    before = rclpy.create_node('calibration', namespace=f'/robot{len(Rig.started) + 1}')
    latched = before.create_publisher(CameraInfo, 'camera_info', LATCHED)
    rig = Rig(*BASE)
    rig.node.destroy_publisher(rig.info)
    rig.info = latched
    rig.publish_info()
    rig.publish_info = lambda: None
    rig.listen('depth/image')
    assert completes(rig, rig.points, stamps), rig.said()
    assert subscription(rig, 'camera_info').durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert 'camera_info: subscribed reliable, as its publisher offers; with the last message ' \
        'from before' in rig.said()
    # One that keeps nothing could not be received like that.
    other = rig.node.create_publisher(CameraInfo, 'camera_info', 10)
    assert rig.spin_until(lambda: other.get_subscription_count() == 1, 10.0)
    assert completes(rig, rig.points, stamps)
    assert rig.close()[0] == 0
    before.destroy_node()


def test_overrides_take_precedence_and_are_named_if_they_exclude_every_publisher(stamps):
    name = f'qos_overrides./robot{len(Rig.started) + 1}/{{}}.subscription.{{}}'
    rig = Rig(*BASE, f'{name.format("image", "reliability")}:=best_effort',
              f'{name.format("points", "reliability")}:=reliable',
              f'{name.format("points", "depth")}:=3',
              f'{name.format("camera_info", "durability")}:=volatile')
    seen = []
    rig.node.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)
    rig.node.destroy_publisher(rig.info)
    rig.info = rig.node.create_publisher(CameraInfo, 'camera_info', LATCHED)
    rig.listen('depth/image')
    assert completes(rig, rig.points, stamps), rig.said()
    assert subscription(rig, 'image').reliability == BEST_EFFORT
    assert subscription(rig, 'points').reliability == RELIABLE
    assert subscription(rig, 'camera_info').durability == DurabilityPolicy.VOLATILE
    assert 'subscribed best effort, as qos_overrides./' in rig.said()
    rig.node.destroy_publisher(rig.points)
    rig.points = publisher(rig, BEST_EFFORT)
    sentence = f'{name.format("points", "reliability")} asks for reliable'
    assert rig.spin_until(lambda: seen and any(
        sentence in status.message for status in seen[-1].status), 15.0), seen[-1]
    assert not completes(rig, rig.points, stamps)
    assert rig.close()[0] == 0


def test_an_override_that_is_not_a_policy_is_refused():
    topic = f'/robot{len(Rig.started) + 1}/points'
    rig = Rig(*BASE, f'qos_overrides.{topic}.subscription.reliability:=often')
    assert rig.spin_until(lambda: 'cannot configure' in rig.said(), 60.0)
    assert ('subscription.reliability must be one of auto, system_default, reliable, '
            'best_effort' in rig.said())
    assert 'Traceback' not in rig.close()[1]


def test_all_missing_inputs_are_named_in_one_line():
    rig = Rig(*BASE)
    for one in (rig.image, rig.points, rig.info):
        rig.node.destroy_publisher(one)
    seen = []
    rig.node.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)
    rig.node.create_subscription(Image, 'depth_completion/depth/image', seen.append, 1)
    lines = []

    def told():
        lines[:] = [line for line in rig.said().splitlines() if 'nobody publishes' in line]
        return bool(lines)

    assert rig.spin_until(told, 60.0), rig.said()
    assert all(f'nobody publishes {rig.namespace}/{name};' in lines[0]
               for name in ('image', 'points', 'camera_info')), lines
    other = rig.node.create_publisher(Image, 'points', 10)
    sentence = f'{rig.namespace}/points is published as sensor_msgs/msg/Image, not as sensor'
    assert rig.spin_until(lambda: any(sentence in status.message
                                      for status in seen[-1].status), 15.0), seen[-1]
    rig.node.destroy_publisher(other)
    assert rig.close()[0] == 0
