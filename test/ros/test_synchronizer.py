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
"""Properties of the synchronizer, for streams of any rate, jitter, offset and arrival order."""
import pickle
import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from steer_depth_ros.errors import ConfigError
from steer_depth_ros.ros.synchronizer import Synchronizer

MS = 1_000_000


def stamps(count=25):
    """Strictly increasing stamps, in nanoseconds, with gaps of 1 ms to 300 ms."""
    return st.lists(st.integers(1, 300), max_size=count).map(
        lambda gaps: [sum(gaps[:i + 1]) * MS for i in range(len(gaps))])


def merge(images, depths, choices):
    """Interleave two streams, each kept in its order."""
    images, depths = list(images), list(depths)
    while images or depths:
        from_image = bool(images) and (not depths or next(choices, True))
        yield ('image', images.pop(0)) if from_image else ('depth', depths.pop(0))


def feed(sync, events):
    pairs = []
    for kind, stamp in events:
        add = sync.add_image if kind == 'image' else sync.add_depth
        pairs += add(stamp, (kind, stamp))
    return pairs


def waiting(sync):
    return len(sync._image.queue) + len(sync._depth.queue)


def periodic(rate, seconds, start_ms=0):
    return [round((1000 + start_ms + 1000 * i / rate) * MS) for i in range(int(seconds * rate))]


def in_order(images, depths, image_latency_ms=5, depth_latency_ms=5):
    """Give events in the order of their arrival."""
    events = ([(s + image_latency_ms * MS, 'image', s) for s in images]
              + [(s + depth_latency_ms * MS, 'depth', s) for s in depths])
    return [(kind, stamp) for _, kind, stamp in sorted(events)]


@settings(max_examples=300, deadline=None)
@given(stamps(), stamps(), st.integers(0, 120), st.integers(-80, 80),
       st.lists(st.booleans(), max_size=50), st.integers(1, 8))
def test_each_message_is_paired_once(images, depths, slop_ms, offset_ms, choices, queue_size):
    sync = Synchronizer(slop_ms / 1e3, offset_ms / 1e3, queue_size)
    pairs = []
    for kind, stamp in merge(images, depths, iter(choices)):
        add = sync.add_image if kind == 'image' else sync.add_depth
        pairs += add(stamp, (kind, stamp))
        assert waiting(sync) <= 2 * queue_size
    pairs += sync.flush()
    for pair in pairs:
        assert abs(pair.image_ns - pair.depth_ns - offset_ms * MS) <= slop_ms * MS
        assert pair.image == ('image', pair.image_ns) and pair.depth == ('depth', pair.depth_ns)
    for used in ([p.image_ns for p in pairs], [p.depth_ns for p in pairs]):
        assert used == sorted(set(used))
    for name, sent in (('image', images), ('depth', depths)):
        dropped = sum(n for key, n in sync.counts.items() if key.startswith(f'{name}_'))
        assert sync.counts[name] == len(sent) == sync.counts['pairs'] + dropped
    assert sync.counts['pairs'] == len(pairs)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.one_of(
    st.integers(0, 40).map(lambda n: n * 25 * MS), st.integers(-2**62, 2**62),
    st.sampled_from([0, 1, 100 * MS, 101 * MS, 2**31 * 1000 * MS]))), max_size=120),
       st.integers(0, 120), st.integers(-80, 80), st.integers(1, 8))
def test_no_sequence_of_stamps_breaks_it(events, slop_ms, offset_ms, queue_size):
    """Stamps that jump, repeat, run backwards or are zero: still no wrong pair, and none twice."""
    sync = Synchronizer(slop_ms / 1e3, offset_ms / 1e3, queue_size)
    pairs = []
    for number, (is_image, stamp) in enumerate(events):
        pairs += (sync.add_image if is_image else sync.add_depth)(stamp, (number, stamp))
        assert waiting(sync) <= 2 * queue_size
    sync.hint()
    pairs += sync.flush()
    assert waiting(sync) == 0
    for pair in pairs:
        assert abs(pair.image_ns - pair.depth_ns - offset_ms * MS) <= slop_ms * MS
        assert (pair.image[1], pair.depth[1]) == (pair.image_ns, pair.depth_ns)
    for used in ([p.image[0] for p in pairs], [p.depth[0] for p in pairs]):
        assert len(used) == len(set(used))
    for name, sent in (('image', True), ('depth', False)):
        dropped = sum(n for key, n in sync.counts.items() if key.startswith(f'{name}_'))
        count = sum(is_image == sent for is_image, _ in events)
        assert sync.counts[name] == count == sync.counts['pairs'] + dropped


def test_hours_of_any_stream_take_no_memory():
    sync = Synchronizer(0.02, queue_size=10)
    rng = random.Random(3)
    stamp = 10**9
    for _ in range(20_000):
        stamp += rng.choice((1, 30, 100, 5000, -20_000)) * MS
        rng.choice((sync.add_image, sync.add_depth))(max(stamp, 0), b'')
    assert len(pickle.dumps(vars(sync))) < 20_000


def best_pairs(images, depths, slop):
    """Pair the nearest first, then what is left on either side of it: the definition."""
    near = [(abs(i - d), i, d) for i in images for d in depths if abs(i - d) <= slop]
    if not near:
        return []
    _, image, depth = min(near)
    return [*best_pairs([i for i in images if i < image], [d for d in depths if d < depth], slop),
            (image, depth),
            *best_pairs([i for i in images if i > image], [d for d in depths if d > depth], slop)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(80, 100), min_size=12, max_size=12),
       st.lists(st.integers(80, 100), min_size=12, max_size=12),
       st.integers(0, 60), st.lists(st.booleans(), max_size=24))
def test_nearest_whatever_arrives_first(image_gaps, depth_gaps, slop_ms, choices):
    images = [sum(image_gaps[:i + 1]) * MS for i in range(12)]
    depths = [sum(depth_gaps[:i + 1]) * MS for i in range(12)]
    sync = Synchronizer(slop_ms / 1e3, queue_size=50)
    pairs = feed(sync, merge(images, depths, iter(choices))) + sync.flush()
    assert [(p.image_ns, p.depth_ns) for p in pairs] == best_pairs(images, depths, slop_ms * MS)


class ByDefinition(Synchronizer):
    """Look at every image with every depth, each time anew."""

    def _candidates(self, images, depths):
        return sorted((abs(image[0] - depth[0]), i, d) for i, image in enumerate(images)
                      for d, depth in enumerate(depths)
                      if abs(image[0] - depth[0]) <= self.slop_ns)

    def _certain(self):
        images, depths, seen = self._image, self._depth, set()
        for distance, i, d in self._candidates(images.queue, depths.queue):
            mutual = not seen & {('image', i), ('depth', d)}
            seen |= {('image', i), ('depth', d)}
            if (mutual and images.next_at_least() >= depths.queue[d][0] + distance
                    and depths.next_at_least() >= images.queue[i][0] + distance):
                return i, d
        return None

    def _settle(self, images, depths):
        found = self._candidates(images, depths)
        if not found:
            for stream, other, left in ((self._image, self._depth, images),
                                        (self._depth, self._image, depths)):
                for entry in left:
                    self._drop(stream, entry, other, 'unmatched')
            return []
        _, i, d = found[0]
        return [*self._settle(images[:i], depths[:d]), self._pair(images[i], depths[d]),
                *self._settle(images[i + 1:], depths[d + 1:])]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(['image', 'depth']), st.one_of(
    st.integers(0, 12), st.integers(0, 120), st.just(-300), st.just(6000)))),
    st.sampled_from([1, 30, 150]), st.sampled_from([3, 8, 100]), st.integers(0, 80))
def test_pairs_are_those_of_the_definition(steps, slop_ms, queue_size, change_at):
    syncs = [kind(slop_ms / 1e3, queue_size=queue_size) for kind in (Synchronizer, ByDefinition)]
    now = {'image': 10_000 * MS, 'depth': 10_000 * MS}
    for number, (kind, step) in enumerate(steps):
        now[kind] += step * MS
        found = [feed(sync, [(kind, now[kind])]) for sync in syncs]
        assert found[0] == found[1]
        if number == change_at:
            for sync in syncs:
                sync.configure(0.06, 0.0)
    assert syncs[0].flush() == syncs[1].flush()
    assert syncs[0].counts == syncs[1].counts


class CountedStamp(int):
    """A stamp that counts what is computed with it."""

    operations = 0

    def __add__(self, other):
        return CountedStamp(int(self) + other)


def _count(name):
    def operation(self, other):
        CountedStamp.operations += 1
        return getattr(int, name)(self, other)
    return operation


for _name in ('__sub__', '__rsub__', '__lt__', '__le__', '__gt__', '__ge__'):
    setattr(CountedStamp, _name, _count(_name))


@pytest.mark.parametrize('apart_ms', [20_000, 3_000])
@pytest.mark.parametrize('slop_s', [0.05, 2.0])
def test_a_long_queue_costs_no_more_than_a_short_one(slop_s, apart_ms):
    sync = Synchronizer(slop_s, queue_size=1000)
    CountedStamp.operations = 0
    for n in range(2000):
        stamp = (1000 + 10 * n) * MS
        for kind, late in (('image', 0), ('depth', apart_ms)):
            feed(sync, [(kind, CountedStamp(stamp + late * MS))])
    assert waiting(sync) >= (2000 if apart_ms > 5000 else 300)
    # With every image against every depth it is hundreds of thousands.
    assert CountedStamp.operations / 4000 < 200


def test_a_thousand_pairs_that_wait_are_settled_at_once():
    sync = Synchronizer(0.003, queue_size=1000)
    stamp = 0
    for n in range(2000):  # each nearer to the next than to the one before
        stamp += 2_500_000 - 500 * n
        assert feed(sync, [('depth' if n % 2 else 'image', stamp)]) == []
    assert waiting(sync) == 2000
    assert len(sync.flush()) == 1000


def test_takes_the_nearer_of_two_images():
    sync = Synchronizer(0.1)
    assert feed(sync, [('image', MS), ('image', 33 * MS), ('depth', 50 * MS)]) == []
    assert sync.add_image(66 * MS, 'late') == []  # a cloud nearer to this image may follow
    pairs = sync.add_depth(150 * MS, 'next')
    assert [(p.image_ns, p.depth_ns) for p in pairs] == [(66 * MS, 50 * MS)]


def test_equal_stamps_need_no_wait():
    sync = Synchronizer(0.0)
    assert sync.add_image(5, 'i') == []
    assert len(sync.add_depth(5, 'd')) == 1


def test_waits_no_longer_than_the_period_demands():
    images, depths = periodic(10, 3, start_ms=4), periodic(10, 3)
    sync = Synchronizer(0.05)
    late = 0
    for kind, stamp in in_order(images, depths):
        pairs = feed(sync, [(kind, stamp)])
        if stamp > 1300 * MS:  # once the period is known the pair comes with its second message
            late += kind == 'image' and [p.image_ns for p in pairs] != [stamp]
    assert late == 0 and sync.counts['pairs'] == 30


def test_images_of_a_faster_camera_are_superseded_not_unmatched():
    sync = Synchronizer(0.05)
    pairs = feed(sync, in_order(periodic(30, 4), periodic(10, 4)))
    assert len(pairs) >= 39
    assert sync.counts['image_superseded'] >= 70 and not sync.counts['image_overflow']
    assert sync.hint() is None


def test_every_pass_of_a_loop_gives_the_same_pairs():
    once = in_order(periodic(10, 0.8, start_ms=1000), periodic(10, 0.8, start_ms=1003))
    sync = Synchronizer(0.02)
    counts = [len(feed(sync, once)) for _ in range(5)]
    assert counts[0] >= 7 and min(counts[1:]) >= 7
    assert sync.counts['resets'] == 4


@pytest.mark.parametrize('kind', ['image', 'depth'])
def test_a_wrong_stamp_ahead_of_time_costs_its_own_pair_alone(kind):
    sync = Synchronizer(0.05)
    good = [(k, s) for s in periodic(10, 2) for k in ('image', 'depth')]
    at = good.index((kind, 2000 * MS))
    pairs = feed(sync, [*good[:at], (kind, 9_000_000 * MS), *good[at + 1:]])
    assert [p.image_ns for p in pairs] == [s for s in periodic(10, 2) if s != 2000 * MS]
    assert sync.counts['resets'] == 0 and sync.counts[f'{kind}_reset'] == 1


def test_a_clock_that_is_set_at_the_start_and_set_back_later():
    sync = Synchronizer(0.05)
    hours = 3 * 3600 * 1000
    stamps = [1000, 1000 + hours, 1100, 1200, 1300]  # the first interval is no period
    pairs = feed(sync, [(k, s * MS) for s in stamps for k in ('image', 'depth')])
    assert [p.image_ns // MS for p in pairs] == stamps
    assert not sync.counts['image_out_of_order']


def test_two_late_messages_in_a_row_are_a_jump_back():
    sync = Synchronizer(0.05)
    stamps = [1000, 1400, 1800, 1500, 1600, 1700, 1800, 1900]
    pairs = feed(sync, [(k, s * MS) for s in stamps for k in ('image', 'depth')])
    assert [p.image_ns // MS for p in pairs] == [1000, 1400, 1800, 1700, 1800, 1900]
    assert sync.counts['image_out_of_order'] == 1


@pytest.mark.parametrize('bursts', [1, 2, 3])
def test_bursts_do_not_slow_down_what_follows_a_jump(bursts):
    sync = Synchronizer(0.05)
    burst = [10_000 + 200 * n + 10 * i for n in range(bursts) for i in range(9)]
    for start in [*range(1000, 3000, 100), *burst]:
        feed(sync, [('depth', start * MS + 15 * MS), ('image', start * MS)])
    pairs = [feed(sync, [('depth', s * MS + 15 * MS), ('image', s * MS)]) for s in (500, 600, 700)]
    assert [p.image_ns // MS for found in pairs for p in found] == [500, 600, 700]
    assert len(pairs[2]) == 1


def test_late_and_repeated_messages_are_counted_not_paired():
    sync = Synchronizer(0.01)
    feed(sync, [('image', stamp * MS) for stamp in (100, 200, 150, 200)])
    assert sync.counts['image_out_of_order'] == 1 and sync.counts['image_repeated'] == 1
    assert len(sync.add_depth(200 * MS, 'd')) == 1 and sync.counts['resets'] == 0


def test_offset_is_added_to_the_depth():
    sync = Synchronizer(0.001, time_offset_s=0.137)
    assert feed(sync, [('image', 237 * MS)]) == []
    pair, = sync.add_depth(100 * MS, 'd')
    assert (pair.image_ns, pair.depth_ns) == (237 * MS, 100 * MS)


def test_hint_names_distance_tolerance_and_offset():
    sync = Synchronizer(0.05)
    feed(sync, in_order(periodic(2, 6, start_ms=137), periodic(2, 6)))
    hint = sync.hint()
    assert '137 ms apart (median); slop is 50 ms; set time_offset_s (about 0.137)' in hint
    assert sync.hint() is None  # told once, then judged anew
    following = Synchronizer(0.05, time_offset_s=0.137)
    assert len(feed(following, in_order(periodic(2, 6, start_ms=137), periodic(2, 6)))) >= 11


@pytest.mark.parametrize('share', [0.3, 0.5, 0.6, 0.8])
def test_no_hint_of_an_offset_where_messages_were_lost(share):
    rng = random.Random(share)
    sync = Synchronizer(0.02)
    for second in range(200):
        feed(sync, [(kind, 10**10 + (10 * second + i) * 100 * MS)
                    for i in range(10) for kind in ('image', 'depth') if rng.random() > share])
        hint = sync.hint() or ''
        assert 'time_offset_s' not in hint and 'no images' not in hint, hint


def test_loss_is_named_if_it_leaves_most_messages_unpaired():
    sync = Synchronizer(0.02)
    stamps = [10**10 + i * 100 * MS for i in range(60)]
    feed(sync, [(kind, stamp) for i, stamp in enumerate(stamps)
                for kind in ('image', 'depth') if i % 3 == ('image', 'depth').index(kind)
                or i % 7 == 3])
    assert re.search(r'\d\d % of the images are missing', sync.hint())


def test_an_offset_is_found_though_a_few_messages_are_missing():
    rng = random.Random(1)
    sync = Synchronizer(0.01)
    for i in range(60):
        for kind, late in (('image', 0), ('depth', 30)):
            if rng.random() > 0.05:
                feed(sync, [(kind, 10**10 + (100 * i + late) * MS)])
    assert '30 ms apart (median)' in sync.hint()


def test_distances_of_either_sign_are_not_an_offset():
    sync = Synchronizer(0.02)
    feed(sync, in_order(periodic(10, 6), [10**9 + (100 * i + (-1) ** i * 35) * MS
                                          for i in range(1, 50)]))
    assert 'ms apart (median)' in (hint := sync.hint()) and 'time_offset_s' not in hint
    assert hint.endswith('so raise slop_s')


def test_hint_for_a_silent_stream_for_other_clocks_and_for_constant_stamps():
    sync = Synchronizer(0.05, depth_name='sparse depth')
    feed(sync, [('image', s) for s in periodic(10, 1)])
    assert 'no sparse depth arrived' in sync.hint()
    sync = Synchronizer(0.05)
    feed(sync, in_order(periodic(10, 1), periodic(10, 1, start_ms=3_600_000)))
    assert 'clocks' in sync.hint()
    sync = Synchronizer(0.05)
    feed(sync, [(kind, MS) for _ in range(10) for kind in ('image', 'depth')])
    assert 'repeat the stamp' in sync.hint()


def test_messages_without_a_stamp_are_counted_not_paired():
    sync = Synchronizer(0.05, time_offset_s=0.01)
    for stamp in (0, 1000 * MS, 0, 1100 * MS, 0, 1200 * MS):
        pairs = feed(sync, [('image', stamp), ('depth', stamp)])
        assert all(p.image_ns == p.depth_ns > 0 for p in pairs)
    assert sync.counts['image_unstamped'] == sync.counts['depth_unstamped'] == 3
    assert sync.counts['resets'] == 0 and sync.counts['pairs'] >= 2
    sync = Synchronizer(0.05)
    feed(sync, [(kind, 0 if kind == 'image' else s) for s in periodic(10, 1)
                for kind in ('image', 'depth')])
    assert 'images carry no stamp' in sync.hint()


def test_another_tolerance_keeps_counts_and_what_waits_another_offset_forgets():
    sync = Synchronizer(0.01)
    assert feed(sync, [('image', 1000 * MS)]) == []
    sync.configure(0.05, 0.0)
    assert len(feed(sync, [('depth', 1000 * MS)])) == 1
    feed(sync, [('image', 1100 * MS)])
    sync.configure(0.05, 0.1)
    assert waiting(sync) == 0
    assert (sync.counts['image'], sync.counts['pairs'], sync.counts['image_reset']) == (2, 1, 1)


def test_memory_is_bounded_when_one_stream_is_silent():
    sync = Synchronizer(0.05, queue_size=4)
    feed(sync, [('depth', s) for s in periodic(10, 5)])
    assert waiting(sync) == 4 and sync.counts['depth_overflow'] == 46


@pytest.mark.parametrize('arguments', [{'slop_s': -1.0}, {'slop_s': 0.1, 'queue_size': 0}])
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ConfigError):
        Synchronizer(**arguments)
