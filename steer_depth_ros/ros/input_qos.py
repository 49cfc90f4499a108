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
"""Choose the QoS of an input: what its publishers offer, or what the user sets."""
from typing import Optional, Tuple

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from steer_depth_ros.errors import ConfigError

# Messages that can wait while Python is busy with a frame. Large reliable ones are also assembled
# here, several at a time while lost fragments are sent again.
QUEUE = 10
AUTO = 'auto'
POLICIES = {'reliability': (ReliabilityPolicy, ReliabilityPolicy.RELIABLE,
                            ReliabilityPolicy.BEST_EFFORT),
            'durability': (DurabilityPolicy, DurabilityPolicy.TRANSIENT_LOCAL,
                           DurabilityPolicy.VOLATILE)}


class InputQos:
    """
    Chooses the QoS of one input, again whenever its publishers change.

    Reliable if every publisher of the topic offers it, since a best-effort subscription loses
    large messages of most drivers; else best effort, which is compatible with all of them.
    kind: message class. keeps: request the last message if every publisher latches it (transient
    local).
    A qos_overrides parameter of the topic takes precedence. Raise ConfigError if it is invalid.
    """

    def __init__(self, node, topic: str, kind: type, keeps: bool = False):
        self._node, self._topic = node, topic
        self._kind = f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'
        self._asked = {'reliability': self._declared('reliability', AUTO),
                       'durability': self._declared('durability', AUTO if keeps else 'volatile')}
        self._chosen: Optional[Tuple] = None
        self._told = ''

    def changed(self) -> bool:
        """Check the publishers; return whether to subscribe again."""
        publishers = self._publishers()
        if not publishers and self._chosen:
            return False  # a restarted driver most likely offers the same
        chosen = tuple(self._choose(name, publishers) for name in POLICIES)
        changed, self._chosen = chosen != self._chosen, chosen
        if publishers:
            self._tell(publishers, *chosen)
        return changed

    def profile(self) -> QoSProfile:
        """Return the current QoS."""
        reliability, durability = self._chosen or tuple(
            self._choose(name, []) for name in POLICIES)
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=QUEUE, reliability=reliability,
                          durability=durability)

    @property
    def reliable(self) -> bool:
        """Return whether the current QoS is reliable."""
        return self._chosen is not None and self._chosen[0] == ReliabilityPolicy.RELIABLE

    def obstacle(self) -> Optional[str]:
        """Return why no present publisher can be received (type or override), None if one can."""
        publishers = self._publishers()
        others = {p.topic_type
                  for p in self._node.get_publishers_info_by_topic(self._topic)}
        if others and not publishers:
            return (f'{self._topic} is published as {", ".join(sorted(others))}, not as '
                    f'{self._kind}; remap it to another topic')
        for name, (_, strict, _) in POLICIES.items():
            if publishers and self._asked[name] == strict and not any(
                    getattr(p.qos_profile, name) == strict for p in publishers):
                return (f'{self._parameter(name)} asks for {strict.name.lower()}, which no '
                        f'publisher of {self._topic} offers; take it out of the parameters')
        return None

    def _publishers(self):
        return [p for p in self._node.get_publishers_info_by_topic(self._topic)
                if p.topic_type == self._kind]

    def _choose(self, name, publishers):
        _, strict, lax = POLICIES[name]
        if self._asked[name] is not None:
            return self._asked[name]
        offered = bool(publishers) and all(
            getattr(p.qos_profile, name) == strict for p in publishers)
        return strict if offered else lax

    def _tell(self, publishers, reliability, durability):
        """Log the choice and its reason whenever it changes."""
        lacking = [p for p in publishers
                   if p.qos_profile.reliability != ReliabilityPolicy.RELIABLE]
        if self._asked['reliability'] is not None:
            why = f'as {self._parameter("reliability")} says'
        elif not lacking:
            why = 'as its publisher offers' if len(publishers) == 1 else 'as all publishers offer'
        elif len(lacking) == len(publishers):
            why = 'as its publisher offers no more'
        else:
            names = sorted({f'{p.node_namespace.rstrip("/")}/{p.node_name}' for p in lacking})
            why = f'as {", ".join(names)} offers no more, though other publishers do'
        kept = durability == DurabilityPolicy.TRANSIENT_LOCAL
        text = (f'{self._topic}: subscribed {reliability.name.lower().replace("_", " ")}, {why}'
                f'{"; with the last message from before (transient local)" if kept else ""}')
        if text != self._told:
            self._told = text
            self._node.get_logger().info(text)

    def _declared(self, policy, default):
        """Return the policy set by the parameter, None for auto."""
        from rcl_interfaces.msg import ParameterDescriptor
        kinds, name = POLICIES[policy][0], self._parameter(policy)
        choices = [AUTO, *(kind.name.lower() for kind in kinds if kind.name != 'UNKNOWN')]
        if not self._node.has_parameter(name):
            self._node.declare_parameter(name, default, ParameterDescriptor(
                description=f'{policy} of the subscription; auto: what the publishers offer',
                additional_constraints=f'read when the node is configured; one of '
                                       f'{", ".join(choices)}', read_only=True))
        value = self._node.get_parameter(name).value
        if value not in choices:
            raise ConfigError(f'{name} must be one of {", ".join(choices)}, not {value!r}')
        return None if value == AUTO else kinds[value.upper()]

    def _parameter(self, policy):
        return f'qos_overrides.{self._topic}.subscription.{policy}'
