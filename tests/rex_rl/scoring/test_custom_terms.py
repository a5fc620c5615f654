"""A user's own reward terms: what may be imported, what a function may give, and how it counts."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards import RewardWeights, Truth, score_group
from rex_rl.config.reward import RewardConfig
from rex_rl.errors import ConfigError, RunError
from rex_rl.scoring import custom_terms
from rex_rl.scoring.custom_terms import load_terms
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Shapes

BOXES = np.array([[0, 0, 99, 99], [200, 200, 299, 299]])
TRUTH = Truth(("cat", "cat"), BOXES, ("cat", "dog"))


def predicted(*labels: str, absent: tuple[str, ...] = ("dog",)) -> Shapes:
    spans_N2 = np.zeros((len(labels), 2), dtype=np.int64)
    return Shapes(labels=labels, bins_NK=BOXES[: len(labels)], spans_N2=spans_N2, faults=(), absent=absent)


ANSWERS = (predicted("cat", "cat"), predicted("cat", "dog"), predicted())


def reward(
    function: str = "share_known", *, allow: tuple[str, ...] = ("tests.support.own_terms",), **term: Any
) -> RewardConfig:
    """A configuration with one own term, `known`."""
    section = {"function": function if ":" in function else f"tests.support.own_terms:{function}", **term}
    return RewardConfig(custom={"known": section}, allow=allow)


# How it counts.


def test_a_term_is_added_by_its_weight_and_kept_by_its_name() -> None:
    """The built-in terms, and what prefixes earned of them, stay what they are."""
    plain = score_group(ANSWERS, TRUTH, weights=RewardWeights(), prefixes=True)
    scores = RewardRule(reward(weight=-0.5)).score([ANSWERS], [TRUTH], task="detection", prefixes=True)[0]
    assert scores.terms_G["known"].tolist() == [1.0, 0.5, 1.0]
    assert scores.total_G.tolist() == pytest.approx((plain.total_G - [0.5, 0.25, 0.5]).tolist())
    assert {name: values.tolist() for name, values in scores.terms_G.items() if name != "known"} == {
        name: values.tolist() for name, values in plain.terms_G.items()
    }
    assert [of.earned_P.tolist() for of in scores.prefixes_G] == [of.earned_P.tolist() for of in plain.prefixes_G]


def test_a_task_may_weigh_every_term_its_own_way() -> None:
    """`task_weights` lies over the weights of built-in and own terms; other tasks keep the defaults."""
    config = RewardConfig(
        custom={"known": "tests.support.own_terms:share_known"},
        allow=("tests.support.own_terms:share_known",),
        task_weights={"pointing": {"known": 0.0, "f1": 2.0}},
    )
    rule = RewardRule(config)
    assert rule.score([ANSWERS[:1]], [TRUTH], task="pointing")[0].total_G.tolist() == [2.0]
    assert rule.score([ANSWERS[:1]], [TRUTH], task="detection")[0].total_G.tolist() == [2.0]
    assert config.weights_of("pointing")["f1"] == 2 * config.weights_of("detection")["f1"]
    assert (config.custom_weights_of("pointing"), config.custom_weights_of("detection")) == ({"known": 0}, {"known": 1})


def test_without_terms_of_ones_own_the_reward_is_the_package_s() -> None:
    for name in ("matched", "paper", "official"):
        plain = score_group(ANSWERS, TRUTH, weights=RewardWeights(), name=name)
        scores = RewardRule(RewardConfig(name=name)).score([ANSWERS], [TRUTH], task="detection")[0]
        assert scores.total_G.tolist() == plain.total_G.tolist()
        assert scores.terms_G.keys() == plain.terms_G.keys()


@pytest.mark.parametrize(("function", "value"), [("not_a_number", "nan"), ("too_much", "1.5"), ("nothing", "None")])
def test_what_is_no_reward_ends_the_run(function: str, value: str) -> None:
    """It is never taken for 0, nor clipped: the error names term, value and range."""
    with pytest.raises(RunError, match=rf"^reward\.custom\.known: gave {value}, not a number from 0 to 1$") as error:
        RewardRule(reward(function)).score([ANSWERS], [TRUTH], task="detection")
    assert error.value.exit_status == 1


def test_the_range_is_the_configs() -> None:
    assert load_terms(reward("too_much", high=2.0))[0].values(ANSWERS, TRUTH).tolist() == [1.5] * 3


# What may be imported.


def test_nothing_off_the_list_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to look at it: importing is what runs code."""
    (tmp_path / "never_imported.py").write_text("def term(predicted, truth): return 0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"never_imported:term is not on the list reward\.allow") as error:
        load_terms(reward("never_imported:term"))
    assert error.value.exit_status == 2
    assert "never_imported" not in sys.modules


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("tests.support.own_terms:no_such", "tests.support.own_terms has no function no_such"),
        ("tests.support.own_terms:NOT_A_FUNCTION", "tests.support.own_terms has no function NOT_A_FUNCTION"),
        ("tests.no_such:term", "tests.no_such cannot be imported: No module named 'tests.no_such'"),
        ("tests.support.own_terms:Predictions.labels", "is not on the list"),
    ],
)
def test_what_cannot_be_found_is_named(function: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^reward\.custom\.known\.function = {function}: .*{expected}"):
        load_terms(reward(function, allow=("tests",)))


def test_an_entry_point_stands_for_its_function_which_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package offers a name; the list is asked about what stands behind it."""
    group = "rex_rl.reward_terms"
    offered = {
        "known": [EntryPoint("known", "tests.support.own_terms:share_known", group)],
        "twice": [EntryPoint("twice", "a:b", group), EntryPoint("twice", "c:d", group)],
    }
    monkeypatch.setattr(custom_terms, "entry_points", lambda *, group, name: offered.get(name, []))

    def named(name: str, *allow: str) -> RewardConfig:
        return RewardConfig(custom={"known": name}, allow=allow)

    assert load_terms(named("known", "tests"))[0].values(ANSWERS, TRUTH).tolist() == [1.0, 0.5, 1.0]
    with pytest.raises(ConfigError, match=r"tests\.support\.own_terms:share_known is not on the list"):
        load_terms(named("known", "known"))
    with pytest.raises(ConfigError, match="no entry point of that name in the group"):
        load_terms(named("other", "tests"))
    with pytest.raises(ConfigError, match=r"2 entry points \(a:b, c:d\) of that name"):
        load_terms(named("twice", "a", "c"))
