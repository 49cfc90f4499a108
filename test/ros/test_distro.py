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
"""What differs between the ROS 2 distributions, with stand-ins for those that do not run here."""
from types import SimpleNamespace

from steer_depth_ros.ros import distro


def test_both_generations_of_fast_dds_find_the_profile():
    found = distro.profile_environment('/p.xml', {})
    assert found == {'FASTRTPS_DEFAULT_PROFILES_FILE': '/p.xml',
                     'FASTDDS_DEFAULT_PROFILES_FILE': '/p.xml'}
    for name in found:  # one's own profile stays
        assert distro.profile_environment('/p.xml', {name: '/mine.xml'}) == {}


def test_discovery_stays_on_this_machine_in_each_distribution():
    assert distro.local_discovery({'ROS_DISTRO': 'humble'}) == {'ROS_LOCALHOST_ONLY': '1'}
    for name in ('jazzy', 'lyrical', 'rolling'):
        assert distro.local_discovery({'ROS_DISTRO': name}) == {
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    assert distro.local_discovery({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SYSTEM_DEFAULT'}) == {}


def node_whose_change_of_state(callback):
    warnings = []
    service = SimpleNamespace(callback=callback)
    node = SimpleNamespace(_service_change_state=service, get_logger=lambda: SimpleNamespace(
        warning=warnings.append))
    distro.refuse_impossible_transitions(node)
    request = SimpleNamespace(transition=SimpleNamespace(id=3, label=''))
    return service.callback(request, SimpleNamespace(success=None)), warnings


def test_humble_and_jazzy_raise_for_an_impossible_transition():
    def change(request, response):
        raise RuntimeError('Transition is not registered.')

    response, warnings = node_whose_change_of_state(change)
    assert response.success is False and 'transition 3' in warnings[0]


def test_lyrical_answers_by_itself():
    def change(request, response):
        response.success = False
        return response

    response, warnings = node_whose_change_of_state(change)
    assert response.success is False and warnings == []
    distro.refuse_impossible_transitions(SimpleNamespace())  # no such attribute any more
