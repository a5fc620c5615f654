"""`ray job submit` as the README says, with Ray's token authentication on and off.

The full run through a job is in `.ci/run`; here are the parts a user meets before and around it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port

pytestmark = pytest.mark.engine

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 120
AGENT_TRIES = 15


class Head:
    """A Ray head node of the test's own, ended by its process group and nothing wider."""

    def __init__(self, env: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rexjob", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        self.env = {**os.environ, **env, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
        self.address = f"http://127.0.0.1:{(dashboard := free_port())}"
        command = ["ray", "start", "--head", "--block", "--num-cpus", "2", "--port", str(free_port())]
        command += ["--dashboard-port", str(dashboard), "--temp-dir", str(self.folder / "ray")]
        command += ["--dashboard-agent-listen-port", str(free_port())]  # its default would meet another head's
        self._log = (self.folder / "head.log").open("w")
        self._process = subprocess.Popen(
            command, env=self.env, stdout=self._log, stderr=self._log, start_new_session=True
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.run("ray", "job", "list", "--address", self.address).returncode != 0:
            assert self._process.poll() is None, (self.folder / "head.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "head.log").read_text()
            time.sleep(1)

    def run(self, *command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=env or self.env, capture_output=True, text=True, check=False)

    def submit(self, root: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Submit and wait; a head that has just started may not have its job agent yet, and says so."""
        entry = ("ray", "job", "submit", "--address", self.address, "--working-dir", str(root), "--", *command)
        for _ in range(AGENT_TRIES):
            done = self.run(*entry)
            if "No available agent" not in done.stderr and "ray/dashboard/modules/job" not in done.stderr:
                break
            time.sleep(2)
        return done

    def close(self) -> None:
        self._process.terminate()  # it ends the others in order; signalled all at once, they wait 30 s for each other
        self._process.wait(timeout=60)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def guarded(ray_environment: dict[str, str]) -> Iterator[Head]:
    head = Head(ray_environment)
    yield head
    head.close()


@pytest.fixture(scope="module")
def submitted(
    guarded: Head, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.CompletedProcess[str]]:
    """One job that looks around, is refused for its run root, and ends with a run that is refused for its key."""
    look = "import os; print('SEES', os.listdir('.'), os.path.exists('runs/.not_uploaded'), os.path.exists('.venv'))"
    train, runs = "rex-rl train configs/smoke.yaml", tmp_path_factory.mktemp("runs")
    relative, unknown = f"{train} run_root=runs; echo STATUS $?", f"{train} run_root={runs} grpo.group_sise=4"
    marker = root / "runs" / ".not_uploaded"
    marker.parent.mkdir(exist_ok=True)
    marker.write_text("x")
    yield guarded.submit(root, "sh", "-c", f'python -c "{look}"; {relative}; {unknown}')
    marker.unlink()


def test_a_failing_run_fails_the_job_with_the_projects_own_line(submitted: subprocess.CompletedProcess[str]) -> None:
    assert submitted.returncode == 1
    assert "grpo.group_size" in submitted.stdout  # the nearest key: the line is the project's, not an echo


def test_a_relative_run_root_is_refused_inside_a_job(submitted: subprocess.CompletedProcess[str]) -> None:
    assert "temporary copy" in submitted.stdout
    assert "STATUS 2" in submitted.stdout


def test_runs_data_and_environments_are_not_uploaded(submitted: subprocess.CompletedProcess[str]) -> None:
    (line,) = {line for line in submitted.stdout.splitlines() if line.startswith("SEES")}  # a tail may come twice
    assert "'rex_rl'" in line
    assert line.endswith("False False")


def test_without_the_token_a_job_is_refused(guarded: Head) -> None:
    stranger = guarded.env | {"RAY_AUTH_TOKEN_PATH": str(guarded.folder / "other")}
    (guarded.folder / "other").write_text("0" * 64)
    done = guarded.run("ray", "job", "list", "--address", guarded.address, env=stranger)
    assert done.returncode != 0


def test_with_tokens_off_a_job_runs_too(root: Path, tmp_path: Path) -> None:
    head = Head({"RAY_AUTH_MODE": "disabled"})
    try:
        done = head.submit(root, "rex-rl", "train", "configs/smoke.yaml", f"run_root={tmp_path}", "--dry-run")
    finally:
        head.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rollout" in done.stdout
