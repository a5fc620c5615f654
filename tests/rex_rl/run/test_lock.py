"""A run's lock: one process at a time, named to the next, released when the process ends in any way."""

import contextlib
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rex_rl.errors import ConfigError
from rex_rl.run import lock as module
from rex_rl.run.lock import LOCK, run_lock

HOLD = """
import sys, pathlib
from rex_rl.run.lock import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    input()
"""


@contextlib.contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until it is ended."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with another_process(tmp_path / "run") as holder:
        for _ in range(2):  # asking takes nothing from the holder
            named = rf"run: process {holder.pid} on \S+ works on this run"
            with pytest.raises(ConfigError, match=named), run_lock(tmp_path / "run"):
                pass


def test_kill_minus_nine_frees_it(tmp_path: Path) -> None:
    with another_process(tmp_path) as holder:
        holder.kill()
        holder.wait()
        with run_lock(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_the_end_of_the_block_frees_it(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        pass
    with another_process(tmp_path):
        pass


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), run_lock(tmp_path):
        assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run_root = .*file: Not a directory"), run_lock(tmp_path / "file" / "run"):
        pass
