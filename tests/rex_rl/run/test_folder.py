"""A run's folder: one configuration, stages done once, seconds that add up."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.config.load import Config, dump_config
from rex_rl.data.records import BadRecord
from rex_rl.errors import ConfigError
from rex_rl.run import folder as run_folder
from rex_rl.run.folder import CONFIG, MODEL, QUARANTINE, STATE, SUMMARY, RunFolder, write_whole
from rex_rl.run.log import RunLog
from rex_rl.run.stopping import StopRequest
from tests.support import fakes


def config_in(root: Path, **changes: Any) -> Config:
    return Config(
        **{"name": "run", "run_root": root, "model": {"path": "tiny"}, "data": {"train": "shapes"}, **changes}
    )


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Fills with what is synced and which names are given, in order."""
    done: list[tuple[str, Path]] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def note_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noting(real: Callable[..., None]) -> Callable[..., None]:
        return lambda source, target: (real(source, target), done.append(("rename", Path(target))))[0]

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", noting(replace))
    monkeypatch.setattr(os, "rename", noting(rename))
    return done


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(run_folder, "time", clock)
    return clock


def test_a_new_folder_holds_the_resolved_config(tmp_path: Path) -> None:
    config = config_in(tmp_path / "deep" / "runs")
    run = RunFolder.open(config)
    assert run.folder == tmp_path / "deep" / "runs" / "run"
    assert (run.folder / CONFIG).read_text() == dump_config(config)


def test_the_same_config_opens_it_again(tmp_path: Path) -> None:
    RunFolder.open(config_in(tmp_path)).end_stage("sft", {"f1_50": 0.5})
    again = RunFolder.open(config_in(tmp_path))
    assert again.is_done("sft")
    assert not again.is_done("grpo")
    assert again.figures == {"sft": {"f1_50": 0.5}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sft": {"num_steps": 7}}, "sft.num_steps is 1000 there, 7 now"),
        ({"grpo": {"num_steps": 7}}, "grpo.num_steps is 1031 there, 7 now"),
        ({"seed": 1}, "seed is 0 there, 1 now"),
        ({"stages": ("sft",)}, 'stages is ["sft", "grpo"] there, ["sft"] now'),
        (
            {"learner": {"deepspeed": {"zero_optimization": {"stage": 3}}}},
            "learner.deepspeed.zero_optimization.stage is absent there, 3 now",
        ),
    ],
)
def test_another_config_is_refused_naming_the_key(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """The folder stays as it was."""
    first = config_in(tmp_path)
    RunFolder.open(first)
    with pytest.raises(ConfigError) as caught:
        RunFolder.open(config_in(tmp_path, **changes))
    assert named in str(caught.value)
    assert str(tmp_path / "run" / CONFIG) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / CONFIG).read_text() == dump_config(first)


@pytest.mark.parametrize("content", ["", "name: [", "just text", "name: run\n"])
def test_a_folder_with_a_foreign_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG).write_text(content)
    with pytest.raises(ConfigError, match="has another configuration"):
        RunFolder.open(config_in(tmp_path))


def test_a_root_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run_root = .*file.*: Not a directory"):
        RunFolder.open(config_in(tmp_path / "file"))


def test_an_inner_part_is_not_counted_to_its_outer_one(tmp_path: Path, clock: Clock) -> None:
    """By hand: 2 s of training, 5 s of evaluation inside it, 1 s more; 3 s of start counted from before."""
    run = RunFolder.open(config_in(tmp_path))
    clock.now += 3
    with run.timed("start", since=clock.now - 3):
        clock.now += 4
    with run.timed("sft"):
        clock.now += 2
        with run.timed("sft_eval"):
            clock.now += 5
        clock.now += 1
    assert run.wall_s == {"start": 7, "sft": 3, "sft_eval": 5}


Tree = list[tuple[str, float, "Tree"]]
TREES = st.recursive(
    st.just([]),
    lambda children: st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), children), max_size=3),
    max_leaves=12,
)


@given(TREES)
def test_parts_are_disjoint_and_add_up(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    """However parts nest and repeat, their seconds sum to the time inside them."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "time", clock)
        run = RunFolder(tmp_path_factory.mktemp("run"))

        def go(parts: Tree) -> None:
            for name, seconds, inner in parts:
                with run.timed(name):
                    clock.now += seconds
                    go(inner)
                    clock.now += seconds

        go(tree)
    assert sum(run.wall_s.values()) == pytest.approx(clock.now - 1000)
    assert min(run.wall_s.values(), default=0) >= 0


def test_seconds_of_an_interrupted_attempt_stay_in(tmp_path: Path, clock: Clock) -> None:
    run = RunFolder.open(config_in(tmp_path))

    def interrupted() -> None:
        with run.timed("sft"), run.timed("sft_eval"):
            clock.now += 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    again = RunFolder.open(config_in(tmp_path))
    with again.timed("sft"):
        clock.now += 3
    assert again.wall_s == {"sft_eval": 2, "sft": 3}


def test_grpo_starts_from_this_runs_sft_model_where_there_is_one(tmp_path: Path) -> None:
    run, model = RunFolder.open(config_in(tmp_path)), tmp_path / "base"
    assert run.start_of("sft", model) == run.start_of("grpo", model) == model
    run.end_stage("sft", {})
    assert run.start_of("grpo", model) == run.stage_model("sft") == run.folder / "stages" / "sft"
    assert run.start_of("sft", model) == model


def test_the_last_stages_model_becomes_the_runs(tmp_path: Path) -> None:
    run = RunFolder.open(config_in(tmp_path))
    for text in ("old", "new"):
        run.stage_model("grpo").mkdir(parents=True, exist_ok=True)
        (run.stage_model("grpo") / "model.safetensors").write_text(text)
        run.publish_model("grpo")
    assert (run.folder / MODEL / "model.safetensors").read_text() == "new"
    assert not list(run.folder.glob("*.partial"))


def test_the_summary_holds_figures_and_seconds(tmp_path: Path, clock: Clock) -> None:
    run = RunFolder.open(config_in(tmp_path))
    with run.timed("sft"):
        clock.now += 1.23456
    run.end_stage("sft", {"f1_50": 0.5})
    run.write_summary()
    summary = json.loads((run.folder / SUMMARY).read_text())
    assert summary == {"sft": {"f1_50": 0.5}, "wall_s": {"sft": 1.23}}


def test_the_state_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while the state is written leaves the old state."""
    run = RunFolder.open(config_in(tmp_path))
    run.end_stage("sft", {"f1_50": 0.5})
    monkeypatch.setattr(run_folder, "os", SimpleNamespace(replace=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)))
    with pytest.raises(KeyboardInterrupt):
        run.end_stage("grpo", {"f1_50": 0.6})
    assert json.loads((run.folder / STATE).read_text())["figures"] == {"sft": {"f1_50": 0.5}}


def test_what_is_written_whole_is_on_disk_before_and_after_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text, then the name, then the folder that holds the name."""
    done = recorded(monkeypatch)
    write_whole(tmp_path / "a.json", "{}")
    assert done == [("fsync", tmp_path / "a.json.partial"), ("rename", tmp_path / "a.json"), ("fsync", tmp_path)]


def test_the_runs_model_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.open(config_in(tmp_path))
    run.stage_model("sft").mkdir(parents=True)
    (run.stage_model("sft") / "model.safetensors").write_text("weights")
    done = recorded(monkeypatch)
    run.publish_model("sft")
    beside = run.folder / f"{MODEL}.partial"
    assert done == [
        ("fsync", beside / "model.safetensors"),
        ("fsync", beside),
        ("rename", run.folder / MODEL),
        ("fsync", run.folder),
    ]


def test_checkpoints_lie_below_the_run(tmp_path: Path) -> None:
    run = RunFolder.open(config_in(tmp_path))
    log, stop = RunLog(run.folder, tracker=None), StopRequest()
    config = config_in(tmp_path, seed=5, sft={"save_every": 0, "num_steps": 2, "batch_size": 3})
    learner = fakes.FakeLearner([])
    with log, run.checkpoints(config, "sft", log=log, stop=stop) as progress:
        assert progress.restore(learner) == 0
        progress.after_step(2, learner)
    manifest = json.loads((run.folder / "checkpoints" / "sft_000002" / "manifest.json").read_text())
    assert {name: manifest[name] for name in ("stage", "step", "position", "seed", "wandb_run_id")} == {
        "stage": "sft",
        "step": 2,
        "position": 6,
        "seed": 5,
        "wandb_run_id": None,
    }


def test_changes_are_accepted_when_told_and_every_one_is_named(tmp_path: Path) -> None:
    """The new configuration is the run's from then on; without a change nothing is written or named."""
    RunFolder.open(config_in(tmp_path))
    changed = config_in(tmp_path, seed=1, sft={"num_steps": 7})
    run = RunFolder.open(changed, accept_changes=True)
    assert run.accepted == ["seed is 0 there, 1 now", "sft.num_steps is 1000 there, 7 now"]
    assert (run.folder / CONFIG).read_text() == dump_config(changed)
    assert RunFolder.open(changed).accepted == []


def test_the_quarantine_has_a_line_for_every_bad_record(tmp_path: Path) -> None:
    run = RunFolder.open(config_in(tmp_path))
    bad = BadRecord(file="train.jsonl", line=3, id="a", field="image", reason="empty file 'x\n.png'")
    run.write_quarantine([bad, bad])
    lines = (run.folder / QUARANTINE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(bad)] * 2
    assert set(asdict(bad)) == {"file", "line", "id", "field", "reason"}
    run.write_quarantine([])
    assert (run.folder / QUARANTINE).read_text() == ""
