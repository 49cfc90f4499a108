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
"""Judge a long run: memory, handles, threads, latency and drops must not grow."""
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np

MB_PER_1000_FRAMES = 1.0
SLOWER = 1.2  # p99 of the last minute over that of the second
MINUTE_S = 60.0
WIDTH, HEIGHT, LEFT, TOP, GAP = 1000, 200, 90, 60, 36
PAPER, INK, QUIET = (255, 255, 255), (30, 30, 30), (150, 150, 150)
LINES = ((190, 60, 20), (40, 90, 170))


def sample_process(pid: int) -> Dict[str, float]:
    """
    Return a process's memory (MB), open handles and threads.

    pss_mb: all memory, shared pages divided among their processes; own_mb: private memory (the
    heap, without the middleware's segments); rss_mb: all memory, shared pages in full.
    """
    proc = Path(f'/proc/{pid}')
    memory = _fields(proc / 'smaps_rollup')
    return {'pss_mb': memory['Pss'] / 1024, 'rss_mb': memory['Rss'] / 1024,
            'own_mb': memory['Pss_Anon'] / 1024,
            'handles': len(list((proc / 'fd').iterdir())),
            'threads': _fields(proc / 'status')['Threads']}


def summarise(samples: List[Dict[str, float]], log: Dict[str, Any]) -> Dict[str, Any]:
    """
    Return the report of a run from samples of the node and the player's log.

    samples: `sample_process` with `t`, seconds of the monotonic clock. log: that of
    ros/soak_player.py. The report holds series by the second from the first frame on ('t',
    'pss_mb', 'own_mb', 'rss_mb', 'handles', 'threads', 'p50_ms', 'p99_ms', 'lost'), and the
    figures that are judged.
    """
    published = {int(stamp): at - log['began'] for stamp, at in log['published'].items()}
    answered = {int(stamp): at - log['began'] for stamp, at in log['answered'].items()}
    expected = sorted(published.keys() - {*log['left_out']})
    came = [s for s in expected if s in answered]
    at = np.array([published[s] for s in came])
    latency = 1e3 * (np.array([answered[s] for s in came]) - at)
    lost = np.array([published[s] for s in expected if s not in answered])
    duration = max(published.values())
    samples = [s for s in samples if 0 <= s['t'] - log['began'] <= duration + 1]
    series = {name: [s[name] for s in samples] for name in samples[0]} if samples else {}
    if series:
        series['t'] = [t - log['began'] for t in series['t']]
    seconds = series.get('t', [])
    series['p50_ms'], series['p99_ms'] = ([_percentile(latency[(at > t - 1) & (at <= t)], q)
                                           for t in seconds] for q in (50, 99))
    series['lost'] = [int((lost <= t).sum()) for t in seconds]
    part = min(MINUTE_S, duration / 3)
    rate = len(published) / duration if duration else 0.0
    return {
        'seconds': duration, 'frames': len(published), 'left_out': len(log['left_out']),
        'dropped': len(lost), 'rate_hz': rate,
        'latency_p50_ms': _percentile(latency, 50), 'latency_p99_ms': _percentile(latency, 99),
        'second_minute_p99_ms': _percentile(latency[(at >= part) & (at < 2 * part)], 99),
        'last_minute_p99_ms': _percentile(latency[at >= duration - part], 99),
        'mb_per_1000_frames': _growth(series, part, rate),
        **{name: {'second_minute': _median(series, name, part, 2 * part),
                  'last_minute': _median(series, name, duration - part, np.inf)}
           for name in ('rss_mb', 'pss_mb', 'own_mb', 'handles', 'threads')},
        'series': series}


def judge(report: Dict[str, Any]) -> List[str]:
    """
    Return a clause for everything that grew or was lost; empty if the run passes.

    Runs of under three minutes are too short to tell whether something grows.
    """
    found = []
    if report['frames'] - report['left_out'] == report['dropped']:
        found.append('the node answered no frame')
    elif report['dropped']:
        found.append(f'{report["dropped"]} of {report["frames"]} frames were dropped')
    if too_short(report):
        return found
    growth = report['mb_per_1000_frames']
    if growth > MB_PER_1000_FRAMES:
        found.append(f'memory grew by {growth:.2f} MB per 1000 frames after the first minute '
                     f'(limit {MB_PER_1000_FRAMES:g})')
    early, late = report['second_minute_p99_ms'], report['last_minute_p99_ms']
    if late > SLOWER * early:
        found.append(f'latency (p99) rose from {early:.1f} ms in the second minute to '
                     f'{late:.1f} ms in the last (limit {SLOWER:g} x)')
    for name in ('handles', 'threads'):
        early, late = report[name]['second_minute'], report[name]['last_minute']
        if late > early:
            found.append(f'open {name} grew from {early:.0f} to {late:.0f}')
    return found


def too_short(report: Dict[str, Any]) -> bool:
    """Return whether a run has no last minute to compare with its second."""
    return report['seconds'] < 3 * MINUTE_S - 1


def draw(report: Dict[str, Any]) -> np.ndarray:
    """Plot the series over time, uint8 (H, W, 3) RGB."""
    series = report['series']
    plots = (('memory (MB): RSS, heap', ('rss_mb', 'own_mb')),
             ('latency (ms): p99, p50', ('p99_ms', 'p50_ms')),
             ('handles, threads', ('handles', 'threads')), ('frames lost', ('lost',)))
    canvas = np.full((TOP + len(plots) * (HEIGHT + GAP), WIDTH, 3), PAPER, np.uint8)
    _text(canvas, f'{report["frames"]} frames in {report["seconds"] / 60:.1f} min, '
          f'{report["dropped"]} dropped, latency p50 {report["latency_p50_ms"]:.0f} ms, '
          f'p99 {report["latency_p99_ms"]:.0f} ms, memory '
          f'{report["mb_per_1000_frames"]:+.2f} MB per 1000 frames', 16, 32, INK)
    for index, (label, names) in enumerate(plots):
        top = TOP + index * (HEIGHT + GAP)
        values = [np.array(series.get(name, []), float) for name in names]
        _plot(canvas[top:top + HEIGHT], series.get('t', []), values)
        _text(canvas, label, LEFT, top - 6, INK)
    return canvas


def _plot(box, seconds, lines):
    finite = np.concatenate([line[np.isfinite(line)] for line in lines] or [np.zeros(0)])
    low, high = (0.0, max(finite.max(initial=0.0), 1.0) * 1.05)
    cv2.rectangle(box, (LEFT, 0), (WIDTH - 20, HEIGHT - 1), QUIET)
    _text(box, f'{high:.0f}', 16, 14, QUIET)
    _text(box, f'{low:.0f}', 16, HEIGHT - 4, QUIET)
    if not len(seconds):
        return
    x = LEFT + (WIDTH - 20 - LEFT) * np.array(seconds) / max(seconds[-1], 1e-9)
    _text(box, f'{seconds[-1] / 60:.1f} min', WIDTH - 90, HEIGHT - 6, QUIET)
    for color, line in zip(LINES, lines):
        known = np.isfinite(line)
        y = (HEIGHT - 1) * (1 - line[known] / high)
        points = np.stack([x[known], y], 1).round().astype(np.int32)
        cv2.polylines(box, [points], False, color, 1, cv2.LINE_AA)


def _text(canvas, text, x, y, color):
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)


def _growth(series, after, rate):
    """
    Return the growth of resident memory after the first minute, MB per 1000 frames.

    Shared pages count in full, as their share (PSS) rises when another Python process ends.
    """
    t, memory = (np.array(series.get(name, []), float) for name in ('t', 'rss_mb'))
    later = t >= after
    if later.sum() < 3 or not rate:
        return 0.0
    return float(np.polyfit(t[later], memory[later], 1)[0] / rate * 1000)


def _median(series, name, start, end):
    values = [v for t, v in zip(series.get('t', []), series.get(name, [])) if start <= t < end]
    return float(np.median(values)) if values else 0.0


def _percentile(values, q):
    return float(np.percentile(values, q)) if len(values) else 0.0


def _fields(path):
    """Return the numbers of a /proc file with lines such as 'Rss:   12 kB'."""
    pairs = (line.split(':', 1) for line in path.read_text().splitlines() if ':' in line)
    return {name: int(rest.split()[0]) for name, rest in pairs if rest.split()[:1]
            and rest.split()[0].isdigit()}
