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
import numpy as np

from steer_depth_ros.ros.matching import Matcher
from steer_depth_ros.ros.parameters import PARAMETERS

MS = 10 ** 6
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}
START = 1_700_000_000_000 * MS
BOOT = 4280_910 * MS  # seventy minutes after the LiDAR was switched on


def matched(depth_stamps, image_stamps, arrivals=None, **values):
    """Feed both streams in the order of their arrival; give all jobs, and what hint() says."""
    matcher = Matcher({**DEFAULTS, **values}, 'points')
    matcher.info = 'camera_info'
    arrivals = arrivals or (depth_stamps, image_stamps)
    events = sorted([(at, 0, stamp) for at, stamp in zip(arrivals[0], depth_stamps)]
                    + [(at, 1, stamp) for at, stamp in zip(arrivals[1], image_stamps)])
    jobs = []
    for at, which, stamp in events:
        add = (matcher.add_depth, matcher.add_image)[which]
        jobs += add(stamp, f'message {stamp}', at)
    hint = matcher.hint()
    assert matcher.hint() is None  # told once
    return jobs + matcher.flush(), hint


def test_clouds_of_the_last_seconds_come_with_each_job():
    stamps = [START + i * 100 * MS for i in range(8)]
    jobs, _ = matched(stamps, stamps, accumulate_s=0.25)
    assert [[(c.stamp_ns - job.pair.image_ns) // MS for c in job.earlier] for job in jobs[2:]] == [
        [-200, -100]] * 6
    assert all(not job.earlier for job in matched(stamps, stamps)[0])


def test_two_lidars_on_one_topic_with_one_stamp_both_count():
    stamps = [START + i * 100 * MS for i in range(4)]
    jobs, _ = matched(sorted(2 * stamps), stamps, accumulate_s=0.05)
    assert [len(job.earlier) for job in jobs] == [1] * 4


def test_the_offset_moves_the_clouds_to_the_clock_of_the_images():
    images = [START + i * 100 * MS for i in range(6)]
    clouds = [BOOT + i * 100 * MS for i in range(6)]
    jobs, _ = matched(clouds, images, (images, images), time_offset_s=(START - BOOT) / 1e9,
                      accumulate_s=0.15)
    assert len(jobs) == 6
    for job in jobs:
        assert abs(job.pair.depth.stamp_ns - job.pair.image_ns) < MS
        assert abs(job.pair.depth_ns - job.pair.image_ns) > 1e17
    assert [len(job.earlier) for job in jobs] == [0, 1, 1, 1, 1, 1]


def test_clocks_that_differ_by_years_are_measured():
    rng = np.random.default_rng(0)
    count = 40
    images = [START + i * 100 * MS for i in range(count)]
    clouds = [BOOT + i * 100 * MS for i in range(count)]
    arrived = [at + int(delay * 1e9) for at, delay in zip(
        images, 0.05 + 0.01 * rng.standard_normal(count))]
    jobs, hint = matched(clouds, images, (arrived, images))
    assert not jobs
    offset = float(hint.split('set time_offset_s to ')[1].split(',')[0])
    jitter = float(hint.split('+- ')[1].split(' ms')[0])
    assert abs(offset - (START - BOOT) / 1e9 - 0.05) < 0.01 and 5 < jitter < 20
    jobs, hint = matched(clouds, images, (arrived, images), time_offset_s=offset)
    assert len(jobs) == count and hint is None


def test_clocks_that_agree_are_not_blamed():
    images = [START + i * 100 * MS for i in range(20)]
    clouds = [stamp + 60 * MS for stamp in images]
    _, hint = matched(clouds, images, slop_s=0.01)
    assert 'set time_offset_s (about' in hint


def test_each_pair_gets_the_nearest_cloud_of_every_further_lidar():
    stamps = [START + i * 100 * MS for i in range(6)]
    for accumulate, expected in ((0.0, [-40, 30]), (0.15, None)):
        matcher = Matcher({**DEFAULTS, 'accumulate_s': accumulate}, 'points')
        matcher.info, matcher.depth_info = 'camera_info', 'depth_info'
        jobs = []
        for stamp in stamps:
            matcher.add_other('left', stamp - 40 * MS, 'left')
            matcher.add_other('right', stamp + 30 * MS, 'right')
            jobs += matcher.add_depth(stamp, 'middle', stamp)
            jobs += matcher.add_image(stamp, 'image', stamp)
        jobs += matcher.flush()
        assert [job.depth_info for job in jobs] == ['depth_info'] * 6
        for job in jobs[:-1]:
            apart = sorted((c.stamp_ns - job.pair.image_ns) // MS for c in job.earlier
                           if c.msg != 'middle')
            assert apart == expected if expected else set(apart) >= {-40, 30}
    # One that fell silent is left out, not repeated for ever.
    jobs = []
    for i in range(6, 12):
        jobs += matcher.add_depth(START + i * 100 * MS, 'middle', 0)
        jobs += matcher.add_image(START + i * 100 * MS, 'image', 0)
    assert all(c.msg == 'middle' for c in (jobs + matcher.flush())[-1].earlier)
