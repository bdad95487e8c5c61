"""``twotower run`` as a process of its own, with what each of its steps takes: time, processor time, and memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

# What the command does before its first step, mostly imports, and after the last one.
BEFORE, AFTER = "start", "report"
STEP = re.compile(r"^\s*\d+/\d+ (\S+)$")
DONE = re.compile(r"^\s+(ran|cached|failed) in [\d.]+ s$")
LISTS = re.compile(r"^\s+([\d,]+) lists at ")
# Between two looks at the memory, in seconds.
EVERY = 1.0


@dataclass(frozen=True)
class Cost:
    """What a step took: seconds on the clock, seconds of processor time, and the most memory held in it, in MB.

    Memory is that of the whole process and of what it started, with what the steps before left in it.
    """

    seconds: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True)
class Watched:
    """A run: the cost of each step that it finished, and the number of lists that its ranker learned from."""

    steps: Mapping[str, Cost]
    lists: int


def watch(spec: Path, out: Path, seconds: float) -> Watched:
    """Run the pipeline of a spec, for so long at most; what a step that was cut off took is left out.

    Raises:
        RuntimeError: a step failed.
    """
    # TensorFlow's threads wait in a loop, which would count as processor time: one at a time.
    one = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    with subprocess.Popen(
        command(spec, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **one}
    ) as process:
        deadline = threading.Timer(seconds, process.kill)
        deadline.start()
        try:
            with _Meter(process.pid) as meter:
                found = _read(process, meter)
        finally:
            deadline.cancel()
            process.kill()
    return found


def command(spec: Path, out: Path) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "twotower.pipeline.cli", "run", "--spec", str(spec), "--out", str(out)]


def _read(process: subprocess.Popen[str], meter: _Meter) -> Watched:
    assert process.stdout is not None
    steps: dict[str, Cost] = {}
    said: list[str] = []
    step, lists = BEFORE, 0
    for line in process.stdout:
        said.append(line)
        started, done, counted = (pattern.match(line.rstrip()) for pattern in (STEP, DONE, LISTS))
        if counted:
            lists = int(counted[1].replace(",", ""))
        elif started:
            if step == BEFORE:
                steps[BEFORE] = meter.lap()
            step = started[1]
        elif done:
            if done[1] == "failed":
                break
            steps[step] = meter.lap()
            step = AFTER
    if process.wait() not in {0, 3, -9}:  # pushed, not blessed, out of time
        raise RuntimeError(f"the run failed in {step}:\n{''.join(said[-5:])}")
    return Watched(steps, lists)


class _Meter:
    """Clock, processor time and peak memory of a process and of those that it started, lap by lap."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._lap = (time.monotonic(), 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def lap(self) -> Cost:
        """What was taken since the last lap."""
        (then, spent), peak = self._lap, self._peak
        times = self._process.cpu_times()
        cpu = times.user + times.system + times.children_user + times.children_system
        self._lap, self._peak = (time.monotonic(), cpu), self._held()
        return Cost(self._lap[0] - then, cpu - spent, max(peak, self._peak) / 1e6)

    def _look(self) -> None:
        while not self._stop.wait(EVERY):
            self._peak = max(self._peak, self._held())

    def _held(self) -> int:
        try:
            return sum(_resident(each) for each in (self._process, *self._process.children(recursive=True)))
        except psutil.NoSuchProcess:
            return 0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
