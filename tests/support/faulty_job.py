"""A real small run in processes of its own, and faults from outside, by pid, in processes that it started itself."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from rex_rl.run.log import read_metrics

ROOT = Path(__file__).parents[2]
ROLES = {"rollout": "ray::RolloutWorker", "learner": "ray::LearnerRank", "reward": "ray::RewardWorker"}
"""Role -> Ray's name for the process of such an actor."""
NUM_STEPS = 16
"""GRPO steps, about half a second each."""
OVERRIDES = (
    "deterministic=true",
    "rollout.num_cpus=0.2",
    "rollout.hang_timeout_s=20",
    "sft.num_steps=1",
    "grpo.prompts_per_step=4",
    "checkpoint.keep=3",
)
"""Overrides of configs/smoke.yaml: room for three rollout workers, and a checkpoint after every step."""
NOT_COMPARED = ("time", "timing_s/", "goodput", "sync/")
"""Clocks and system figures of a step's line; everything else is the run's own."""


@dataclass
class FaultyJob:
    """`rex-rl train` of configs/smoke.yaml with some overrides, as one process group."""

    folder: Path
    """The run's folder."""
    overrides: tuple[str, ...]
    environment: Mapping[str, str]
    module: str = "rex_rl"
    process: subprocess.Popen[bytes] = field(init=False)
    _log: subprocess.Popen[bytes] = field(init=False)
    """Writes the job's output to a file: the job's own files may be limited."""

    def start(self) -> "FaultyJob":
        """Start it, or start it again."""
        command = [sys.executable, "-m", self.module, "train", "configs/smoke.yaml", *self.overrides]
        with self.folder.with_suffix(".log").open("ab") as log:
            self._log = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        self.process = subprocess.Popen(
            [*command, f"run_root={self.folder.parent}", f"name={self.folder.name}"],
            cwd=ROOT,
            env=os.environ | dict(self.environment),
            stdout=self._log.stdin,
            stderr=self._log.stdin,
            start_new_session=True,
        )
        self._log.stdin.close()
        return self

    def steps(self, stage: str = "grpo") -> list[dict[str, object]]:
        """The lines of the steps done so far."""
        file = self.folder / "metrics.jsonl"
        rows = read_metrics(file) if file.is_file() else []
        return [row for row in rows if row.get("stage") == stage and "timing_s/learn" in row]

    def events(self, name: str) -> list[dict[str, object]]:
        """The events of that name."""
        return [row for row in read_metrics(self.folder / "metrics.jsonl") if row.get("event") == name]

    def wait_for(self, condition: Callable[[], object], *, timeout_s: float = 300, poll_s: float = 0.02) -> None:
        """Wait while the job runs."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the job ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline_s, f"it did not come to pass:\n{self.tail()}"
            time.sleep(poll_s)

    def wait_for_step(self, step: int, *, timeout_s: float = 300, poll_s: float = 0.02) -> None:
        """Wait until this many GRPO steps are done."""
        self.wait_for(lambda: len(self.steps()) >= step, timeout_s=timeout_s, poll_s=poll_s)

    def finish(self, *, timeout_s: float = 600) -> None:
        """Wait for a successful end."""
        status = self.process.wait(timeout_s)
        assert status == 0, f"exit status {status}:\n{self.tail()}"

    def pids(self, role: str) -> list[int]:
        """Processes of a role, among those this job started."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(child.cmdline()).startswith(ROLES[role]):
                    found.append(child.pid)
            except psutil.Error:  # it has ended meanwhile
                continue
        return sorted(found)

    def strike(self, role: str, *, sign: signal.Signals = signal.SIGKILL, which: int = 0) -> int:
        """Send a signal to one actor of a role, once there is one; returns its pid."""
        self.wait_for(lambda: len(self.pids(role)) > which)
        pid = self.pids(role)[which]
        os.kill(pid, sign)
        return pid

    def limit_files(self, num_bytes: int | None) -> None:
        """Let no file of driver and learner grow beyond `num_bytes`, as on a full disk; None lifts the limit."""
        for pid in (self.process.pid, *self.pids("learner")):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if num_bytes is None else num_bytes, hard))

    def command(self, *arguments: str) -> str:
        """Standard output of another `rex-rl` command about this run's cluster, as from another shell."""
        address = str(self.events("cluster")[-1]["address"])  # the tests' machine may have several
        done = subprocess.run(
            [sys.executable, "-m", "rex_rl", *arguments, "--address", address],
            cwd=ROOT,
            env=os.environ | dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def kill_driver(self) -> None:
        """kill -9 of the driver and of everything in its process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the job and all its processes: nothing may outlive its test."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.kill_driver()
        self._log.kill()
        self._log.wait()

    def said(self) -> str:
        """All output of the job so far."""
        return self.folder.with_suffix(".log").read_text(errors="replace")

    def tail(self) -> str:
        """The end of that output."""
        return self.said()[-3000:]


class StartJob(Protocol):
    """Starts a job in a folder of its own."""

    def __call__(
        self, name: str, *overrides: str, num_steps: int = NUM_STEPS, module: str = "rex_rl", **environment: str
    ) -> FaultyJob:
        """`name` is the run's; `module` is run in place of `python -m rex_rl`, with more in its `environment`."""


def learned(job: FaultyJob) -> dict[object, dict[str, object]]:
    """Step -> its own metrics in GRPO: what must be equal to the bit with and without faults."""
    rows = job.steps()
    own = {row["step"]: {name: row[name] for name in row if not name.startswith(NOT_COMPARED)} for row in rows}
    assert len(own) == len(rows), "a step stands twice"
    return own


def differences(one: FaultyJob, other: FaultyJob, *, steps: Collection[int] | None = None) -> list[str]:
    """Where two runs' steps differ, as text; of some `steps` only, or of all."""
    left, right = learned(one), learned(other)
    compared = sorted(left.keys() | right.keys()) if steps is None else steps
    return [
        f"step {step} {name}: {json.dumps(a.get(name))} against {json.dumps(b.get(name))}"
        for step in compared
        for a, b in [(left.get(step, {}), right.get(step, {}))]
        for name in sorted(a.keys() | b.keys())
        if repr(a.get(name)) != repr(b.get(name))
    ]
