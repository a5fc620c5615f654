"""Weights & Biases: one W&B run per run, whose faults never stop a training.

W&B may be absent, slow, down or full. Every call to it goes through `_fault`, which turns what it raises into a line
for the log. A run that cannot start online starts offline, and `wandb sync` uploads it later.

Rows are numbered by the caller, not by W&B's own counter. Take a run that was interrupted after step 25 and goes on
from a checkpoint of step 20. Steps 21 to 25 are not doubled on the server, which drops a row number it knows. And its
second offline folder does not begin again at row 0, which `wandb sync` would drop altogether.
"""

import os
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from rex_rl.config.actors import WandbConfig

T = TypeVar("T")
Mode = Literal["online", "offline"]

INIT_TIMEOUT_S = 30.0
"""W&B's own limit for reaching its server at the start."""
FINISH_TIMEOUT_S = 60.0
"""W&B's own limit for the upload of the rest at the end; what is left stays on disk."""
HANG_TIMEOUT_S = 80.0
"""Our own limit around both: W&B adds 30 s to start its process and 10 s of grace, so longer means that it hangs."""
TEARDOWN_TIMEOUT_S = 20.0
"""Time for W&B's process to end after a fault; a process that does not end is left behind."""

RUN_ID_FILE = "run_id"
_QUIET = {
    "WANDB_SILENT": "true",  # also makes W&B see no terminal, so it never asks for a key
    "WANDB_ERROR_REPORTING": "false",  # else it sends crash reports, which without a network delay the exit by 20 s
}


class Tracker:
    """One W&B run. No method raises because of W&B; the first fault ends the logging."""

    def __init__(self, run: Any | None, *, run_id: str, mode: Mode | Literal["none"], notice: str) -> None:
        self._run = run
        self.run_id = run_id
        self.mode = mode
        """`none`: W&B could not be started at all, and every call does nothing."""
        self.notice = notice
        """How the start went, in one line: where the run can be seen, or why it is not online."""
        self._known: set[str] = set()

    def log(self, axis: str, position: int, values: Mapping[str, float], *, row: int) -> str | None:
        """One row: `values` over the step axis `axis`, such as `grpo/step`. Row numbers must rise.

        Returns None; the first time W&B fails, the reason.
        """
        if self._run is None:
            return None
        fault = _fault(lambda: self._log(axis, position, values, row))
        if fault:
            self._run = None
            _abandon()
        return fault

    def finish(self, *, failed: bool) -> str | None:
        """Upload the rest and close; returns None, or why not all of it arrived."""
        if self._run is None:
            return None
        run, self._run = self._run, None
        fault = _fault(lambda: _within(HANG_TIMEOUT_S, partial(run.finish, exit_code=int(failed))))
        if fault is None:
            return None
        _abandon()
        return f"{fault}; to upload the rest: wandb sync {run.settings.sync_dir}"

    def _log(self, axis: str, position: int, values: Mapping[str, float], row: int) -> None:
        assert self._run is not None
        if axis not in self._known:
            self._run.define_metric(axis, hidden=True)
            self._known.add(axis)
        for name in values:
            if name not in self._known:  # by full name: with W&B's wildcards it is undefined which of two patterns wins
                self._run.define_metric(name, step_metric=axis)
                self._known.add(name)
        self._run.log({axis: position, **values}, step=row, commit=True)


def start_tracker(
    config: WandbConfig, *, folder: Path, run_name: str, settings: Mapping[str, object]
) -> Tracker | None:
    """Start the W&B run of a run folder; its files lie in `folder`/wandb. None when the mode is `disabled`.

    Mode `auto` follows the variable WANDB_MODE; without it, it is online where W&B finds a key (WANDB_API_KEY, an
    identity token, a netrc entry for its host), else offline. `online` without a key, or with a server that does not
    answer within 30 s, becomes offline, as `Tracker.notice` then says. The run takes the id of an earlier attempt in
    the same folder, so that a resumed run goes on in the same curves; else it gets a new id.

    `settings` is shown as the run's configuration and must hold no secrets.
    """
    wanted = _wanted(config)
    if wanted == "disabled":
        return None
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    run_id = _remembered(folder) or secrets.token_hex(4)
    begin = partial(_begin, config, folder, run_name, run_id, settings)
    why = ""
    if wanted != "offline":
        has_key, why = _look_for_key()
        if has_key:
            run, why = _started(partial(begin, "online"))
            if run is not None:
                _remember(folder, run_id)
                return Tracker(run, run_id=run_id, mode="online", notice=str(run.url))
        elif wanted == "online":
            why = why or "no key"
    run, fault = _started(partial(begin, "offline"))
    if run is None:
        notice = f"W&B could not be started: {fault}; metrics.jsonl has the numbers"
        return Tracker(None, run_id=run_id, mode="none", notice=notice)
    _remember(folder, run_id)
    because = f" ({why})" if why else ""
    return Tracker(
        run, run_id=run_id, mode="offline", notice=f"offline{because}; to upload: wandb sync {run.settings.sync_dir}"
    )


def _wanted(config: WandbConfig) -> str:
    mode = os.environ.get("WANDB_MODE", "") if config.mode == "auto" else config.mode
    return mode if mode in ("online", "offline", "disabled") else "auto"


def _look_for_key() -> tuple[bool, str]:
    """(whether W&B finds a key, without asking for one or trying it; what was wrong with it, if anything)."""
    found: list[bool] = []

    def look() -> None:
        import wandb

        found.append(wandb.login(prompt=False, verify=False))

    fault = _fault(look)
    return any(found), fault or ""


def _begin(
    config: WandbConfig, folder: Path, run_name: str, run_id: str, settings: Mapping[str, object], mode: Mode
) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        name=run_name,
        id=run_id,
        resume="allow",
        config=dict(settings),
        dir=folder,
        mode=mode,
        reinit="create_new",  # leaves W&B's global run alone, into which other libraries log
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
        ),
    )


def _started(begin: Callable[[], T]) -> tuple[T | None, str]:
    """(result of `begin`, ""), or (None, why it failed)."""
    begun: list[T] = []
    fault = _fault(lambda: begun.append(_within(HANG_TIMEOUT_S, begin)))
    if fault:
        _abandon()
    return (begun[0], "") if begun else (None, fault or "")


def _abandon() -> None:
    """Drop W&B's process: it keeps the id of a run that failed to start, and its exit hook waits for it."""

    def tear_down() -> None:
        import wandb

        _within(TEARDOWN_TIMEOUT_S, wandb.teardown)

    _fault(tear_down)


def _fault(work: Callable[[], object]) -> str | None:
    """Do `work`; returns None, or what it raised as one line."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the training goes on whatever W&B raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return None


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`; raises TimeoutError after `seconds`, and leaves its thread to itself."""
    outcome: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(([work()], None))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            outcome.put(([], error))

    threading.Thread(target=run, name="wandb", daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result[0]


def _remembered(folder: Path) -> str | None:
    try:
        return (folder / "wandb" / RUN_ID_FILE).read_text().strip() or None
    except OSError:
        return None


def _remember(folder: Path, run_id: str) -> None:
    _fault(lambda: (folder / "wandb" / RUN_ID_FILE).write_text(f"{run_id}\n"))
