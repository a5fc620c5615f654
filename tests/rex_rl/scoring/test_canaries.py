"""Canaries: which rewards pay for cheating, when they are tried, and what a run is told."""

import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest

from rex_rl.config.reward import CanaryConfig, RewardConfig
from rex_rl.errors import ConfigError
from rex_rl.scoring.canaries import CanaryReport, CanaryWatch, run_canaries
from rex_rl.scoring.cheats import CHEATS
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Object, Record
from tests.support import fakes

CATEGORIES = ("cat", "dog", "owl", "rat")


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, name: str, **facts: object) -> None:
        self.events.append({"event": name, **facts})


def crowded(seed: int, task: str = "detection") -> Record:
    """Up to 15 objects of three labels in an image of 600 px; a fourth label is asked for and absent."""
    rng = np.random.default_rng(seed)
    things = []
    for _ in range(rng.integers(1, 16)):
        width, height = rng.integers(15, 200, 2)
        x, y = rng.integers(0, 600 - width), rng.integers(0, 600 - height)
        shape = {"point": (float(x), float(y))}
        if task == "detection":
            shape = {"bbox": (float(x), float(y), float(x + width), float(y + height))}
        things.append(Object(label=str(rng.choice(CATEGORIES[:3])), **shape))
    return Record(
        id=f"{task}{seed}",
        image="/no.png",
        task=task,
        categories=CATEGORIES,
        objects=tuple(things),
        width=600,
        height=600,
        source="r.jsonl:1",
    )


BOXED = [crowded(seed) for seed in range(16)]
CROWD = BOXED + [crowded(seed, "pointing") for seed in range(16)]


def rule(name: str = "matched", **settings: Any) -> RewardRule:
    return RewardRule(RewardConfig(name=name, **settings))


@cache
def crowd_under(name: str) -> CanaryReport:
    """What the crowd finds out about a reward, tried once for all tests."""
    return run_canaries(CROWD, rule(name))


def watch(records: list[Record], name: str = "matched", **settings: Any) -> tuple[CanaryWatch, Log]:
    log = Log()
    return CanaryWatch(records, rule(name), CanaryConfig(**settings), log), log


def test_no_cheat_pays_under_the_default_reward() -> None:
    """Boxes and points, in crowds: every cheat is below the imperfect answer, which earns 0.4 to 0.6."""
    report = crowd_under("matched")
    assert report.winners == ()
    assert (set(report.totals), report.num_records) == ({"detection", "pointing"}, 32)
    assert set(report.totals["detection"]) == {"imperfect", *CHEATS}
    for totals in report.totals.values():
        assert 0.4 < totals["imperfect"] < 0.6
    assert report.metrics["canary/winners"] == 0


def test_duplicates_beat_the_honest_answer_under_the_released_codes_formula() -> None:
    """Its precision is the mean of best IoUs, so more of the best box raises it; the paper's formula counts them."""
    report = crowd_under("official")
    assert ("detection", "copies") in report.winners
    assert "CHEATING PAYS under reward `official`" in report.text
    assert crowd_under("paper").winners == ()


def test_weights_that_invite_a_cheat_are_found_out() -> None:
    """A term of the user's own that pays for more shapes, in one task only."""
    own = {"custom": {"many": "tests.support.own_terms:many_shapes"}, "allow": ("tests.support.own_terms",)}
    paying = rule(**own, task_weights={"detection": {"many": 0.0}, "pointing": {"many": 5.0}})
    assert {task for task, _ in run_canaries(CROWD, paying).winners} == {"pointing"}
    assert (
        run_canaries(CROWD, rule(**own, task_weights={"pointing": {"many": 0}, "detection": {"many": 0}})).winners == ()
    )


def test_metrics_are_means_over_tasks() -> None:
    report = CanaryReport(
        reward="matched",
        totals={"detection": {"imperfect": 0.5, "giant": 0.4}, "pointing": {"imperfect": 0.3}},
        num_records=2,
    )
    assert report.metrics == {"canary/imperfect": 0.4, "canary/giant": 0.4, "canary/winners": 0.0}


def test_equal_is_not_above() -> None:
    """A single label leaves `official` nothing to gain from swapped corners, which it mends: the same total."""
    totals = crowd_under("official").totals["detection"]
    assert totals["swapped_corners"] == totals["imperfect"]


def test_records_without_objects_are_left_out() -> None:
    assert run_canaries([fakes.record(boxes=0)], rule()).metrics == {}
    canaries, log = watch([fakes.record(boxes=0)], strict=True)
    canaries.start()
    assert canaries.metrics(100) == {}
    assert "no record with objects" in log.events[0]["message"]


# The watch.


def test_a_watch_checks_at_the_start_and_every_so_many_steps() -> None:
    """Between them, and with `every` 0 after the start, there is nothing to log."""
    canaries, log = watch(CROWD, every=3, num_records=4)
    canaries.start()
    found = {step: canaries.metrics(step) for step in range(1, 8)}
    assert [step for step, metrics in found.items() if metrics] == [3, 6]
    assert {f"canary/{name}" for name in ("imperfect", "winners", *CHEATS)} == set(found[3])
    assert found[3] != found[6]  # the next records
    assert len(log.events) == 1  # the start; nothing went wrong since
    canaries, _ = watch(CROWD, every=0)
    assert [canaries.metrics(step) for step in (0, 1, 100)] == [{}] * 3


def test_a_resumed_run_looks_at_the_same_records() -> None:
    """Which records a step looks at follows from the step alone."""
    canaries, _ = watch(CROWD, every=2, num_records=4)
    again, _ = watch(CROWD, every=2, num_records=4)
    assert [canaries.metrics(step) for step in (2, 4)][1] == again.metrics(4)


def test_a_reward_that_can_be_gamed_warns_at_every_check_and_the_run_goes_on() -> None:
    canaries, log = watch(BOXED, "official", every=1, num_records=16)
    canaries.start()
    assert canaries.metrics(1)["canary/winners"] >= 1
    assert [event["event"] for event in log.events] == ["canaries"] * 2
    assert "detection/copies" in log.events[1]["winners"]
    assert "CHEATING PAYS" in log.events[1]["message"]


def test_strict_ends_the_run_with_one_line() -> None:
    canaries, _ = watch(BOXED, "official", num_records=16, strict=True)
    with pytest.raises(ConfigError, match=r"^reward\.canaries\.strict = true: .*detection: copies 0\.\d+"):
        canaries.start()
    assert watch(CROWD, strict=True)[0].start() is None


def test_records_are_shared_out_over_tasks_and_none_is_taken_twice() -> None:
    """Eight of a file with one record of pointing: four of detection, and that one."""
    canaries, _ = watch([*BOXED, crowded(0, "pointing")], num_records=8)
    for turn in range(8):
        names = [record.id for record in canaries._records(turn)]
        assert len(set(names)) == len(names) == 5


def test_a_rule_can_be_sent_to_another_process() -> None:
    """Terms of the user's own travel by their names."""
    own = rule(custom={"many": "tests.support.own_terms:many_shapes"}, allow=("tests.support.own_terms",))
    assert run_canaries(CROWD[:3], pickle.loads(pickle.dumps(own))) == run_canaries(CROWD[:3], own)
