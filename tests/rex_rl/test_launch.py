"""What the launcher logs before anything starts; the rest of it runs in the engine tests."""

import json
from functools import partial
from pathlib import Path

import pytest

from rex_rl.config.load import Config
from rex_rl.data.records import BadRecord
from rex_rl.data.splits import DataSplit
from rex_rl.launch import _begin, _tell_inputs
from rex_rl.run.folder import QUARANTINE, RunFolder
from rex_rl.run.log import RunLog, read_metrics
from tests.support import fakes


def test_what_runs_beside_hands_its_error_to_whoever_asks() -> None:
    """And what does not raises here and now: a user's own data is read before anything starts."""
    failing = partial(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        _begin(failing, beside=False)
    begun = _begin(failing, beside=True)
    with pytest.raises(ValueError, match="invalid literal"):
        begun.result(timeout=10)
    assert [_begin(partial(int, "3"), beside=beside).result(timeout=10) for beside in (True, False)] == [3, 3]


def test_bad_records_are_counted_by_reason_and_accepted_changes_are_named(tmp_path: Path) -> None:
    """In the log's events, where a person looks first, and each bad record in the quarantine."""
    facts = {"name": "run", "run_root": tmp_path, "model": {"path": "tiny"}, "data": {"train": "shapes"}}
    RunFolder.open(Config(**facts))
    run = RunFolder.open(Config(**facts, seed=3), accept_changes=True)
    bad = [BadRecord(file="a.jsonl", line=i, id=None, field="image", reason=f"empty file '{i}.png'") for i in (4, 9)]
    bad.append(BadRecord(file="a.jsonl", line=12, id="x", field="bbox", reason="x1 12 <= x0 30"))
    with RunLog(run.folder, tracker=None) as log:
        _tell_inputs(run, DataSplit(train=(fakes.record(),), heldout=(), bad=tuple(bad)), log)
    events = read_metrics(run.folder / "metrics.jsonl")
    assert [event["change"] for event in events if event["event"] == "config_changed"] == ["seed is 0 there, 3 now"]
    (data,) = [event for event in events if event["event"] == "data"]
    counts = {"train": 1, "heldout": 0, "bad": 3, "image: empty file ..": 2, "bbox: x# # <= x# #": 1}
    assert data == data | counts
    lines = (run.folder / QUARANTINE).read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [4, 9, 12]
