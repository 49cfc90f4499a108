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
Complete many recordings with several processes on one machine or on a Ray cluster.

A result appears complete or not at all (BagWriter moves it into place), so existing ones are done:
a second run continues where the first was stopped. If a worker is killed, its recordings are
done again by new ones. If there are too few recordings to keep the workers busy, long ones are
divided, see `parts`.
"""
from concurrent.futures import as_completed, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from glob import glob
import multiprocessing
import os
from pathlib import Path
import shutil
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from steer_depth_ros.errors import BagError, ConfigError, SteerDepthError
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_tools import complete_bag
from steer_depth_ros.recordings.parts import complete_part, divide, Part, Reason, results

ATTEMPTS = 3  # for a task whose worker died; after that the recording itself is to blame
PART = 100  # pairs; some ten seconds of work
ENOUGH = 2  # recordings per worker from which on none is divided
DIED = 'its worker died (out of memory?) each time it was tried; try it alone, or fewer --workers'


@dataclass
class Outcome:
    """The outcome of a recording: figures of `complete_bag`, or the error."""

    source: Path
    target: Path
    figures: Dict[str, Any] = field(default_factory=dict)
    error: str = ''
    skipped: bool = False


@dataclass
class Task:
    """A unit of work: a recording, or a part of it, which gets a file of its own."""

    source: Path
    target: Path
    part: Optional[Part] = None


@dataclass
class Done:
    """The outcome of a task: figures of a recording, reasons of a part, or an error."""

    task: Path  # the target, which identifies the task
    figures: Dict[str, Any] = field(default_factory=dict)
    reasons: List[Reason] = field(default_factory=list)
    error: str = ''


def find_recordings(patterns: Sequence[str]) -> List[Path]:
    """
    Return the recordings that match paths, folders of recordings and globs, without duplicates.

    Raise BagError for a pattern that matches none.
    """
    found = []
    for pattern in patterns:
        paths = [Path(p) for p in sorted(glob(pattern, recursive=True))]
        below = [r for path in paths for r in _below(path)]
        if not below:
            raise BagError(f'{pattern} leads to no recording; give rosbag2 folders, .mcap or .db3 '
                           'files, folders of these, or a glob')
        found += below
    return list(dict.fromkeys(found))


def targets(sources: Sequence[Path], out: Path) -> Dict[Path, Path]:
    """Map each recording to OUT/NAME.mcap; raise BagError if two get the same name."""
    named: Dict[Path, Path] = {}
    for source in sources:
        target = out / f'{source.stem if source.is_file() else source.name}.mcap'
        bag.require_apart(source, target)
        other = named.setdefault(target, source)
        if other != source:
            raise BagError(f'{other} and {source} would both become {target}; complete them into '
                           'different folders')
    return {source: target for target, source in named.items()}


def complete_many(jobs: Dict[Path, Path], make_completer: Callable[[], Any], workers: int,
                  overwrite: bool = False, progress: Callable[[float], None] = lambda _: None,
                  ray: Optional[str] = None, **options) -> List[Outcome]:
    """
    Complete recordings in `workers` processes; return an Outcome for each, in order.

    jobs: source to target. make_completer: called in each process to make its DepthCompleter.
    overwrite: replace existing results. progress: called with the fraction of a recording that
    was just finished. ray: address of a Ray cluster to use instead; all its machines must see the
    files under the same names. options: of `complete_bag`.
    """
    outcomes = {source: Outcome(source, target, skipped=True)
                for source, target in jobs.items() if target.exists() and not overwrite}
    progress(len(outcomes))
    cluster = _connect(ray) if ray else None
    if cluster:
        workers = max(1, int(cluster.cluster_resources().get('CPU', 1)))
    left = [source for source in jobs if source not in outcomes]
    whole = len(left) >= ENOUGH * workers or workers == 1
    tasks = {source: _tasks(source, jobs[source], whole, options) for source in left}
    done: Dict[Path, Done] = {}

    def take(source, finished):
        done[finished.task] = finished
        mine = tasks[source]
        if all(task.target in done for task in mine):
            outcomes[source] = _join(source, jobs[source], mine, done, options)
        progress(1 / len(mine))

    try:
        _run_all([task for mine in tasks.values() for task in mine], done, take, make_completer,
                 workers, cluster, options)
    finally:
        for source in left:
            shutil.rmtree(_parts_folder(jobs[source]), ignore_errors=True)
    return [outcomes[source] for source in jobs]


def _tasks(source, target, whole, options) -> List[Task]:
    """Return the tasks of a recording: its parts, or the whole."""
    try:
        parts = [] if whole else divide(source, PART, **_of_parts(options))
    except Exception:  # completing it raises the same error, and that is reported
        parts = []
    folder = _parts_folder(target)
    return [Task(source, folder / f'{number}.mcap', part) for number, part in enumerate(parts)
            ] or [Task(source, target)]


def _join(source, target, tasks, done, options) -> Outcome:
    """Return the outcome of a recording; join its parts if it was divided."""
    finished = [done[task.target] for task in tasks]
    error = next((one.error for one in finished if one.error), '')
    if error or tasks[0].part is None:
        return Outcome(source, target, finished[0].figures, error)
    made = results([(one.task, one.reasons) for one in finished])
    joined = _attempt(target, lambda: {'figures': complete_bag(
        source, target, None, overwrite=True, stored=made, **options)})
    return Outcome(source, target, joined.figures, joined.error)


def _run_all(tasks, done, take, make_completer, workers, cluster, options):
    """Run all tasks; give up those whose worker died in every attempt."""
    def left():
        return [task for task in tasks if task.target not in done]

    if cluster:
        for task, finished in _run_on_ray(cluster, tasks, make_completer, options):
            take(task.source, finished)
    for attempt in range(ATTEMPTS):
        # The last attempt is one by one, so that a task fails only if it kills its own worker.
        for batch in [left()] if attempt < ATTEMPTS - 1 else [[task] for task in left()]:
            for task, finished in _run(batch, make_completer, workers, options):
                take(task.source, finished)
    for task in left():
        take(task.source, Done(task.target, error=DIED))


def _run(tasks, make_completer, workers, options) -> Iterator[Tuple[Task, Done]]:
    """Yield (task, Done) as they finish, until all are done or a dead worker breaks the pool."""
    if not tasks:
        return
    # Not forked: threads of torch and OpenMP do not survive a fork.
    context = multiprocessing.get_context('spawn')
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _start,
                             (make_completer, threads)) as pool:
        futures = {pool.submit(_complete, task, options): task for task in tasks}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    pass  # the caller tries again
        except BaseException:  # interrupted: what has not begun is not begun any more
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _connect(address) -> Any:
    """Connect to a Ray cluster; return the module ray."""
    try:
        import ray
    except ImportError:
        raise ConfigError('--ray needs Ray, which is not installed: pip install '
                          '"steer_depth_ros[ray]" on every machine of the cluster') from None
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except ConnectionError as error:
        raise ConfigError(f'no Ray cluster at {address}: {error}') from None
    return ray


def _run_on_ray(ray, tasks, make_completer, options) -> Iterator[Tuple[Task, Done]]:
    folder = Path.cwd()

    def complete(task):  # its worker has another working directory
        from steer_depth_ros.recordings import many
        if many._completer is None:
            many._start(make_completer, 1)
        there = replace(task, source=Path(folder, task.source), target=Path(folder, task.target))
        return replace(many._complete(there, options), task=task.target)

    # Ray itself restarts a task whose worker died.
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(complete)
    waiting = {remote.remote(task): task for task in tasks}
    while waiting:
        [ready], _ = ray.wait(list(waiting))
        task = waiting.pop(ready)
        try:
            yield task, ray.get(ready)
        except ray.exceptions.RayTaskError as error:  # such as a package missing there
            reason = str(error).strip().splitlines()[-1]
            yield task, Done(task.target, error=f'a worker of the cluster failed: {reason}')
        except ray.exceptions.RayError:
            yield task, Done(task.target, error=DIED)


_completer: Any = None  # per worker process, since loading takes longer than a frame


def _start(make_completer, threads):
    global _completer
    import torch
    torch.set_num_threads(threads)
    _completer = make_completer()


def _complete(task, options) -> Done:
    if task.part is None:
        # An existing target is to be replaced: those to keep were skipped before.
        return _attempt(task.target, lambda: {'figures': complete_bag(
            task.source, task.target, _completer, overwrite=True, **options)})
    return _attempt(task.target, lambda: {'reasons': complete_part(
        task.source, task.target, _completer, task.part, **_of_parts(options))})


def _attempt(target, complete) -> Done:
    try:
        return Done(target, **complete())
    except SteerDepthError as error:
        return Done(target, error=str(error))
    except Exception as error:  # one bad recording must not stop the others
        return Done(target, error=f'unexpected {type(error).__name__}: {error}')


def _of_parts(options):
    """Return the options that affect the result of a pair."""
    return {name: options.get(name) for name in ('topics', 'values', 'calibration')}


def _parts_folder(target):
    return target.parent / f'.{target.name}.parts'


def _below(path):
    """Return the path if it is a recording, else the recordings in this folder."""
    if path.is_file():
        return [path] if path.suffix in bag.ENDINGS else []
    if (path / 'metadata.yaml').exists():
        return [path]
    return [p for p in sorted(path.iterdir()) if not p.name.startswith('.')
            and (p.suffix in bag.ENDINGS if p.is_file() else (p / 'metadata.yaml').exists())]
