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
Many recordings, completed by several processes of one machine or of a Ray cluster.

Each result appears whole or not at all (BagWriter moves it into place), so what is there is done:
a second run goes on where the first was stopped. Where a worker is killed, its recordings are
done again by new ones.
"""
from concurrent.futures import as_completed, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from glob import glob
import multiprocessing
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from steer_depth_ros.errors import BagError, ConfigError, SteerDepthError
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_tools import complete_bag

ATTEMPTS = 3  # for a recording whose worker died; more often, it is the recording that kills them
DIED = 'its worker died (out of memory?) each time it was tried; try it alone, or fewer --workers'


@dataclass
class Outcome:
    """What became of one recording: figures of `complete_bag`, or why there are none."""

    source: Path
    target: Path
    figures: Dict[str, Any] = field(default_factory=dict)
    error: str = ''
    skipped: bool = False


def find_recordings(patterns: Sequence[str]) -> List[Path]:
    """
    Find the recordings that paths, folders of recordings and globs name, sorted, each once.

    Raise BagError naming a pattern that leads to none.
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
    """Map each recording to its result, OUT/NAME.mcap; BagError where two would have one name."""
    named: Dict[Path, Path] = {}
    for source in sources:
        target = out / f'{source.stem if source.is_file() else source.name}.mcap'
        other = named.setdefault(target, source)
        if other != source:
            raise BagError(f'{other} and {source} would both become {target}; complete them into '
                           'different folders')
    return {source: target for target, source in named.items()}


def complete_many(jobs: Dict[Path, Path], make_completer: Callable[[], Any], workers: int,
                  overwrite: bool = False, progress: Callable[[Outcome], None] = lambda _: None,
                  ray: Optional[str] = None, **options) -> List[Outcome]:
    """
    Complete recordings in `workers` processes; give an Outcome for each, in order.

    ray: address of a Ray cluster whose processes do it instead, one task a recording; all its
    machines must see the files under the same names.

    jobs: source to target. make_completer: makes the DepthCompleter of a process, to which it is
    sent. overwrite: do again what is there. progress: called with each Outcome when it is known.
    options: of `complete_bag`.
    """
    done: Dict[Path, Outcome] = {}

    def known(outcome):
        done[outcome.source] = outcome
        progress(outcome)

    for source, target in jobs.items():
        if target.exists() and not overwrite:
            known(Outcome(source, target, skipped=True))
    if ray:
        left = [source for source in jobs if source not in done]
        for outcome in _run_on_ray(left, jobs, make_completer, ray, options):
            known(outcome)
    for attempt in range(ATTEMPTS):
        left = [source for source in jobs if source not in done]
        # One by one in the end, so that only what kills its own worker is given up.
        for batch in [left] if attempt < ATTEMPTS - 1 else [[source] for source in left]:
            for outcome in _run(batch, jobs, make_completer, workers, options):
                known(outcome)
    for source in jobs:
        if source not in done:
            known(Outcome(source, jobs[source], error=DIED))
    return [done[source] for source in jobs]


def _run(sources, jobs, make_completer, workers, options) -> Iterator[Outcome]:
    """Yield the outcomes until all are there, or a worker died and took the pool with it."""
    if not sources:
        return
    # Not forked: threads of torch and OpenMP do not survive it.
    context = multiprocessing.get_context('spawn')
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(min(workers, len(sources)), context, _start,
                             (make_completer, threads)) as pool:
        futures = [pool.submit(_complete, source, jobs[source], options) for source in sources]
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                pass  # the caller tries again


def _run_on_ray(sources, jobs, make_completer, address, options) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError:
        raise ConfigError('--ray needs Ray, which is not installed: pip install '
                          '"steer_depth_ros[ray]" on every machine of the cluster') from None
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except ConnectionError as error:
        raise ConfigError(f'no Ray cluster at {address}: {error}') from None

    folder = Path.cwd()

    def complete(source, target):  # its worker has another working directory
        from steer_depth_ros.recordings import many
        if many._completer is None:
            many._start(make_completer, 1)
        outcome = many._complete(Path(folder, source), Path(folder, target), options)
        return replace(outcome, source=source, target=target)

    # Ray itself starts a task again whose worker died.
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(complete)
    waiting = {task.remote(source, jobs[source]): source for source in sources}
    while waiting:
        [ready], _ = ray.wait(list(waiting))
        source = waiting.pop(ready)
        try:
            yield ray.get(ready)
        except ray.exceptions.RayError:
            yield Outcome(source, jobs[source], error=DIED)


_completer: Any = None  # of this worker process; loading it takes longer than a frame


def _start(make_completer, threads):
    global _completer
    import torch
    torch.set_num_threads(threads)
    _completer = make_completer()


def _complete(source, target, options) -> Outcome:
    try:
        # What is there by now is of an earlier run: those that were done are not given again.
        return Outcome(source, target, complete_bag(source, target, _completer, overwrite=True,
                                                    **options))
    except SteerDepthError as error:
        return Outcome(source, target, error=str(error))
    except Exception as error:  # one strange recording must not end the others
        return Outcome(source, target, error=f'unexpected {type(error).__name__}: {error}')


def _below(path):
    """Return a path that is a recording itself, or else the recordings in this folder."""
    if path.is_file():
        return [path] if path.suffix in bag.ENDINGS else []
    if (path / 'metadata.yaml').exists():
        return [path]
    return [p for p in sorted(path.iterdir()) if not p.name.startswith('.')
            and (p.suffix in bag.ENDINGS if p.is_file() else (p / 'metadata.yaml').exists())]
