"""W&B, real where possible: offline runs are written and read back; a dead server or process does not end a run."""

import json
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from rex_rl.config.actors import WandbConfig
from rex_rl.run import tracking
from rex_rl.run.tracking import Tracker, start_tracker

KEY = "0123456789abcdef" * 3
"""A made-up key of the length W&B asks for."""
OFFLINE = WandbConfig(mode="offline", project="boxes", group="night")
_HEADER_BYTES, _BLOCK_BYTES = 7, 32_768


def start(folder: Path, config: WandbConfig = OFFLINE) -> Tracker:
    tracker = start_tracker(config, folder=folder, run_name="quickstart", settings={"grpo": {"num_steps": 60}})
    assert tracker is not None
    return tracker


def written(folder: Path) -> list[Record]:
    """Every record of a folder's finished offline runs, once W&B's process has written the last one."""
    deadline = time.monotonic() + 30
    while True:
        runs = [list(records(file)) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
        if all(run and run[-1].WhichOneof("record_type") == "exit" for run in runs) or time.monotonic() > deadline:
            return [record for run in runs for record in run]
        time.sleep(0.02)


def records(file: Path) -> Iterator[Record]:
    """The whole records of one file. It is a LevelDB log: blocks of [crc, length, kind] + piece."""
    data, place, piece = file.read_bytes(), _HEADER_BYTES, b""
    while place + _HEADER_BYTES <= len(data):
        left = _BLOCK_BYTES - place % _BLOCK_BYTES
        if left < _HEADER_BYTES:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        piece += data[place + _HEADER_BYTES : place + _HEADER_BYTES + length]
        place += _HEADER_BYTES + length
        if place <= len(data) and kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(piece)
            piece = b""


def rows(folder: Path) -> list[dict[str, Any]]:
    """The logged rows, without W&B's own times."""
    items = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in written(folder)
        if record.WhichOneof("record_type") == "history"
    ]
    return [{name: row[name] for name in row if name not in ("_timestamp", "_runtime")} for row in items]


def axes(folder: Path) -> dict[str, str]:
    """Metric -> the metric it is drawn over."""
    metrics = [record.metric for record in written(folder) if record.WhichOneof("record_type") == "metric"]
    return {metric.name: metric.step_metric for metric in metrics if metric.step_metric}


class FakeRun:
    """A wandb run that keeps its calls, or fails."""

    url = "https://wandb.ai/x"
    settings = wandb.Settings()

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.logged: list[dict[str, float]] = []

    def define_metric(self, name: str, **options: object) -> None:
        pass

    def log(self, values: dict[str, float], **options: object) -> None:
        if self.error is not None:
            raise self.error
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        pass


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """wandb without its process: a key is found, and teardowns are counted."""
    torn_down: list[str] = []
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    monkeypatch.setattr(wandb, "teardown", lambda: torn_down.append("teardown"))
    return torn_down


def test_an_offline_run_holds_values_axes_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by the real library, read back from its file; the key of the environment is nowhere in the folder."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = start(tmp_path)
    assert tracker.mode == "offline"
    assert "wandb sync" in tracker.notice
    assert tracker.log("sft/step", 1, {"sft/loss": 2.0}, row=3) is None
    assert tracker.log("eval/step", 1, {"eval/f1_50": 0.5}, row=4) is None
    assert tracker.log("grpo/step", 1, {"reward": 0.25, "rewards/f1/mean": 0.5}, row=6) is None
    assert tracker.log("grpo/step", 2, {"reward": 0.5, "kl": float("nan")}, row=9) is None
    assert tracker.finish(failed=False) is None

    *first, last = rows(tmp_path)
    assert str(last.pop("kl")) == "nan"
    assert [*first, last] == [
        {"sft/step": 1, "sft/loss": 2.0, "_step": 3},
        {"eval/step": 1, "eval/f1_50": 0.5, "_step": 4},
        {"grpo/step": 1, "reward": 0.25, "rewards/f1/mean": 0.5, "_step": 6},
        {"grpo/step": 2, "reward": 0.5, "_step": 9},
    ]
    assert axes(tmp_path) == {
        "sft/loss": "sft/step",
        "eval/f1_50": "eval/step",
        "reward": "grpo/step",
        "rewards/f1/mean": "grpo/step",
        "kl": "grpo/step",
    }
    (run,) = [record.run for record in written(tmp_path) if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.display_name, run.run_id) == (
        "boxes",
        "night",
        "quickstart",
        tracker.run_id,
    )
    assert {item.key: item.value_json for item in run.config.update}["grpo"] == '{"num_steps":60}'
    files = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_symlink()]
    assert files
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    assert not [file for file in files if "code" in file.parts or file.suffix in (".py", ".patch")]


def test_a_resumed_run_keeps_its_id_and_fails_if_it_failed(tmp_path: Path) -> None:
    """Without a given id, the folder's id of the first attempt is used; a given id overrides it. W&B drops a row
    number it has, which keeps repeated steps out of the curves."""
    first = start(tmp_path)
    first.log("grpo/step", 1, {"reward": 0.25}, row=3)
    assert first.finish(failed=True) is None
    second = start(tmp_path)
    second.log("grpo/step", 2, {"reward": 0.5}, row=6)
    second.log("grpo/step", 2, {"reward": 0.75}, row=6)
    second.finish(failed=False)
    assert [row["_step"] for row in rows(tmp_path)] == [3, 6]
    assert second.run_id == first.run_id
    exits = [record.exit.exit_code for record in written(tmp_path) if record.WhichOneof("record_type") == "exit"]
    assert exits == [1, 0]


@pytest.mark.parametrize(("mode", "variable"), [("disabled", "online"), ("auto", "disabled")])
def test_disabled_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, variable: str) -> None:
    """By the configuration, or in mode `auto` by W&B's own variable."""
    monkeypatch.setenv("WANDB_MODE", variable)
    config = WandbConfig.model_validate({"mode": mode})
    assert start_tracker(config, folder=tmp_path, run_name="x", settings={}) is None


def test_a_start_that_raises_becomes_offline_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: list[str]
) -> None:
    """W&B's process is dropped in between, because it keeps the id of the run that failed."""
    begun: list[tuple[str, str]] = []

    def init(**options: Any) -> FakeRun:
        begun.append((options["mode"], options["id"]))
        if options["mode"] == "online":
            raise wandb.errors.CommError("the server\nis down")
        assert no_process == ["teardown"]
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    tracker = start(tmp_path, WandbConfig())
    assert [mode for mode, _ in begun] == ["online", "offline"]
    assert {run_id for _, run_id in begun} == {tracker.run_id}
    assert tracker.mode == "offline"
    assert tracker.notice.startswith("offline (CommError: the server is down); to upload: wandb sync ")


def test_a_start_that_hangs_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: list[str]
) -> None:
    """Online and offline both: the run goes on without W&B, and its calls do nothing."""
    released = threading.Event()
    monkeypatch.setattr(tracking, "HANG_TIMEOUT_S", 0.05)
    monkeypatch.setattr(wandb, "init", lambda **options: released.wait(60))
    begun = time.monotonic()
    tracker = start(tmp_path, WandbConfig())
    assert time.monotonic() - begun < 10
    assert tracker.mode == "none"
    assert "no answer within 0.05 s" in tracker.notice
    assert tracker.log("grpo/step", 1, {"reward": 1.0}, row=3) is None
    assert tracker.finish(failed=False) is None
    released.set()


def test_online_without_a_key_never_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: list[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def login(**options: Any) -> bool:
        asked.append(options)
        return False

    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.setattr(wandb, "init", lambda **options: FakeRun())
    tracker = start(tmp_path, WandbConfig(mode="online"))
    assert asked == [{"prompt": False, "verify": False}]
    assert tracker.notice.startswith("offline (no key); ")


def test_an_online_run_says_where_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: list[str]
) -> None:
    """The settings that keep W&B quiet and safe reach it, and so does the permission to resume."""
    given: dict[str, Any] = {}

    def init(**options: Any) -> FakeRun:
        given.update(options)
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    tracker = start(tmp_path, WandbConfig())
    assert (tracker.mode, tracker.notice) == ("online", "https://wandb.ai/x")
    assert (given["mode"], given["resume"], given["dir"]) == ("online", "allow", tmp_path)
    quiet = given["settings"]
    assert (quiet.console, quiet.silent, quiet.save_code) == ("off", True, False)
    assert (quiet.disable_git, quiet.disable_code, quiet.disable_job_creation) == (True, True, True)
    assert (quiet.init_timeout, quiet.finish_timeout) == (30, 60)


def test_a_fault_while_logging_is_told_once(no_process: list[str]) -> None:
    tracker = Tracker(FakeRun(ConnectionResetError("Connection lost")), run_id="x", mode="online", notice="")
    assert tracker.log("grpo/step", 1, {"reward": 1.0}, row=3) == "ConnectionResetError: Connection lost"
    assert tracker.log("grpo/step", 2, {"reward": 1.0}, row=6) is None
    assert tracker.finish(failed=False) is None


def test_an_upload_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch, no_process: list[str]) -> None:
    run, released = FakeRun(), threading.Event()
    monkeypatch.setattr(tracking, "HANG_TIMEOUT_S", 0.05)
    monkeypatch.setattr(run, "finish", lambda exit_code: released.wait(60))
    fault = Tracker(run, run_id="x", mode="online", notice="").finish(failed=False)
    assert fault is not None
    assert fault.startswith("TimeoutError: no answer within 0.05 s; to upload the rest: wandb sync ")
    released.set()


_ALONE = """
    import json, os, signal, subprocess, sys
    from pathlib import Path
    from rex_rl.run import tracking
    from rex_rl.config.actors import WandbConfig
    from rex_rl.run.log import RunLog, read_metrics

    tracking.INIT_TIMEOUT_S = 1.0
    folder = Path(sys.argv[1])
    nothing = tracking._look_for_key()
    (folder / "netrc").write_text(f"machine 127.0.0.1:9 login user password {sys.argv[2]}")
    tracker = tracking.start_tracker(WandbConfig(), folder=folder, run_name="x", settings={})
    with RunLog(folder, tracker=tracker) as log:
        for step in range(1, 5):
            log.step("grpo", step, num_steps=4, metrics={"reward": 0.5}, seconds={})
            if step == 2:
                children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout
                for pid in map(int, children.split()):
                    if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text():
                        os.kill(pid, signal.SIGKILL)
    lines = read_metrics(folder / "metrics.jsonl")
    print(json.dumps({"nothing": nothing, "mode": tracker.mode, "notice": tracker.notice,
                      "events": [line["event"] for line in lines if "event" in line],
                      "steps": [line["step"] for line in lines if "stage" in line]}))
"""


def test_a_dead_server_and_a_killed_process_end_nothing(tmp_path: Path, root: Path) -> None:
    """The real library in a process of its own: first no key is found, then one in the netrc file; the server refuses
    connections, so the run is offline; W&B's process is killed after step 2, and the run ends in order."""
    environment = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(root),
        "NETRC": str(tmp_path / "netrc"),
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # the discard port: nobody listens
        "WANDB_X_DISABLE_VIEWER": "true",  # else W&B looks up the key's owner for 5 s, only to print the name
    }
    command = [sys.executable, "-c", textwrap.dedent(_ALONE), str(tmp_path), KEY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert said["nothing"] == [False, ""]
    assert said["mode"] == "offline"
    assert "connection refused" in said["notice"]
    # Reported once: at the next step, or at the end where the socket still took that step.
    assert said["events"] in (["wandb", "wandb_stopped"], ["wandb", "wandb_unfinished"])
    assert said["steps"] == [1, 2, 3, 4]
