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
Complete a long recording in parts, by several processes, with the result of a single one.

The whole recording is matched once, by stamps only, and each part receives its pairs and where
their messages are. So pairs across two files of a recording, accumulated clouds, the latest
camera_info and all transforms are the same as without parts. What remains is state that one frame
passes on to the next, see `divide`.
"""
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple, Union

from steer_depth_ros.errors import SteerDepthError
from steer_depth_ros.geometry.transforms import TransformBuffer
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import (
    Drops,
    make_pipeline,
    read_jobs,
    read_transforms,
    Recorded,
    run_job,
)
from steer_depth_ros.recordings.bag_tools import completed_messages, open_bag, OUTPUTS, Stored
from steer_depth_ros.ros.pipeline import Cloud, Job

FIRST = 20  # pairs from which the units of the sensors are inferred

Reason = Union[SteerDepthError, str, None]  # why a pair has no depth, None if it has


class Place(NamedTuple):
    """The position of a message in its recording."""

    topic: str
    log_ns: int
    stamp_ns: int


@dataclass
class Part:
    """Consecutive pairs, with Places instead of messages. units: see `Pipeline`."""

    jobs: List[Job]
    units: Dict[str, float]


def divide(source, pairs: int, topics=None, values=None, calibration=None) -> List[Part]:
    """
    Divide a recording into parts of `pairs` pairs; return none if it cannot be divided.

    Not divided are recordings with fewer images, and those with images of more than 8 bits, whose
    mapping to 8 bits depends on the images before. Other arguments: as for `complete_bag`.
    """
    with open_bag(source, topics, values, calibration) as (recording, chosen, values, calibration):
        if recording.counts[chosen.image] <= pairs:
            return []

        def jobs():
            return read_jobs(recording, chosen, values, Drops(), calibration)

        pipeline = make_pipeline(recording, values, chosen)
        for job in islice(jobs(), FIRST):
            try:
                run_job(pipeline, chosen, job)
            except SteerDepthError:
                pass  # reported when its part is completed
        if pipeline.stretches:
            return []
        placed = [placed_job(job) for job in jobs()]
    return [Part(placed[i:i + pairs], pipeline.units) for i in range(0, len(placed), pairs)]


def complete_part(source, target, completer, part: Part, topics=None, values=None,
                  calibration=None) -> List[Reason]:
    """
    Complete a part; write the messages of its i-th pair with log time i.

    Return for each pair None, or the reason why it has no messages.
    """
    reasons: List[Reason] = []
    with open_bag(source, topics, values, calibration) as (recording, chosen, values, calibration):
        pipeline = make_pipeline(recording, values, chosen, completer,
                                 transforms=_transforms_of(recording))
        pipeline.units.update(part.units)
        with bag.BagWriter(target, overwrite=True) as writer:
            for topic, kind in OUTPUTS.values():
                writer.add_topic(topic, kind)
            for number, job in enumerate(found_jobs(part.jobs, recording)):
                try:
                    result = run_job(pipeline, chosen, job, {*OUTPUTS})
                except SteerDepthError as error:
                    reasons.append(error)
                    continue
                reasons.append(None if result.depth is not None else result.why)
                if result.depth is not None:
                    for role, message in completed_messages(result, values):
                        writer.write(OUTPUTS[role][0], number, message)
    return reasons


_transforms: Dict[Any, TransformBuffer] = {}  # of the latest recording of this process


def _transforms_of(recording) -> TransformBuffer:
    """Return all transforms of a recording; read once per process, not for every part."""
    key = recording.path, recording.path.stat().st_mtime_ns
    if key not in _transforms:
        _transforms.clear()
        _transforms[key] = read_transforms(recording)[0]
    return _transforms[key]


def results(parts: List[Tuple[Path, List[Reason]]]) -> Iterator[Union[SteerDepthError, Stored]]:
    """Yield for each pair of all parts what `complete_part` wrote, or its error."""
    roles = {topic: role for role, (topic, _) in OUTPUTS.items()}
    for path, reasons in parts:
        if all(reason is not None for reason in reasons):
            yield from (r if isinstance(r, SteerDepthError) else Stored(r) for r in reasons)
            continue
        with bag.BagReader(path) as written:
            by_pair = groupby(written.messages(), key=lambda record: record.log_ns)
            for reason in reasons:
                if isinstance(reason, SteerDepthError):
                    yield reason
                elif reason is not None:
                    yield Stored(reason)
                else:
                    yield Stored('', [(roles[r.topic], r.raw) for r in next(by_pair)[1]])


def placed_job(job) -> Job:
    """Replace the messages of a job by their places; clouds that jobs share stay shared."""
    for cloud in (*job.earlier, job.pair.depth):
        cloud.msg = _place(cloud.msg)
    return replace(job, pair=job.pair._replace(image=_place(job.pair.image)),
                   info=_place(job.info), depth_info=_place(job.depth_info), arrived=0.0)


def _place(message):
    if not isinstance(message, Recorded):
        return message  # already a place, or a calibration, or None
    return place_of(message.record)


def place_of(record) -> Place:
    """Return the place of a record."""
    return Place(record.topic, record.log_ns, bag.cdr_stamp_ns(record.raw))


def found_jobs(jobs, recording) -> Iterator[Job]:
    """
    Yield jobs with Recorded messages instead of places.

    Clouds and camera_info that consecutive jobs share are read once.
    """
    clouds: Dict[int, Cloud] = {}
    infos: Dict[Any, Any] = {}

    def find(place) -> Any:
        return Recorded(recording, recording.at(*place)) if isinstance(place, Place) else place

    for job in jobs:
        clouds = {id(c): clouds.get(id(c)) or Cloud(find(c.msg), c.stamp_ns)
                  for c in (*job.earlier, job.pair.depth)}
        infos = {info: infos.get(info) or find(info) for info in (job.info, job.depth_info)}
        yield replace(job, pair=job.pair._replace(image=find(job.pair.image),
                                                  depth=clouds[id(job.pair.depth)]),
                      earlier=[clouds[id(c)] for c in job.earlier],
                      info=infos[job.info], depth_info=infos[job.depth_info])
