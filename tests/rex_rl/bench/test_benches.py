"""`rex-rl bench` and `rex-rl plan` from outside: names, JSON alone on standard output, mistakes as one line."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rex_rl.bench.benches import BENCHES, run_bench
from rex_rl.bench.figure import Figure, lines, median_s
from rex_rl.bench.step import BALANCED, StepBench, StepTimes, Stopwatch, step_figures
from rex_rl.errors import UserError


def rex_rl(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rex_rl", *words], cwd=root, capture_output=True, text=True, check=False
    )


def test_the_benches_of_the_issue_are_there() -> None:
    assert set(BENCHES) == {"rewards", "learner", "sync", "rollout", "step"}


@pytest.mark.parametrize(("name", "shapes"), [("speed", "tiny"), ("sync", "3b")])
def test_unknown_benches_are_the_users_mistake(name: str, shapes: str) -> None:
    with pytest.raises(UserError, match="should be one of"):
        run_bench(name, shapes=shapes)


def test_plan_prints_json_alone(root: Path) -> None:
    done = rex_rl(root, "plan", "configs/rex_omni_3b.yaml", "--shapes", "3b", "--image-tokens", "1280", "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert sum(planned["parameters"].values()) == 3_754_622_976
    assert planned["gpus"][1]["seconds"]["grpo"]["step"] > 0


def test_plan_says_what_it_assumes(root: Path) -> None:
    done = rex_rl(root, "plan", "configs/quickstart.yaml", "learner.num_ranks=2")
    assert "assumed:" in done.stdout
    assert "vision tower counted" in done.stdout
    missing = rex_rl(root, "plan", "configs/quickstart.yaml", "model.path=/nowhere")
    assert missing.returncode == 2
    assert missing.stderr.startswith("rex-rl: error: /nowhere/config.json: no such file")


def test_medians_alternate_and_leave_out_the_warm_up() -> None:
    calls: list[str] = []

    def first() -> None:
        calls.append("a")
        time.sleep(0.03 if len(calls) <= 2 else 0.0)

    seconds = median_s(first, lambda: calls.append("b"), rounds=3)
    assert "".join(calls) == "ab" * 4
    assert max(seconds) < 0.02


def test_a_figure_in_a_table_and_in_json() -> None:
    figure = Figure(name="speed", value=2.0, unit="s", baseline=4.0, ratio=2.0, meaning="this against that")
    assert lines([figure])[-1] == "| speed | 2 s | 4 s | 2 | this against that |"
    assert figure.as_json() == {"name": "speed", "value": 2.0, "unit": "s", "baseline": 4.0, "ratio": 2.0}


def test_the_stopwatch_takes_the_middle_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps of 9, 2, 2 and 7 s the first and last do not count; the first began before the stopwatch."""
    clock = iter([10.0, 12.0, 14.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for step, rollout in enumerate((9.0, 1.5, 1.0, 7.0)):
        watch.step("grpo", step, seconds={"rollout": rollout, "learn": 0.5, "sync": 0.1})
    assert watch.times(edge=1) == StepTimes(whole=2.0, rollout=1.25, learn=0.5, sync=0.1)


class PretendBench(StepBench):
    """Rollout takes 20 ms an answer token, learning 1 s plus 10 ms a token; overlapped, the slower plus 0.1 s."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def times(self, *, max_staleness: int, answer_tokens: int, **rest: Any) -> StepTimes:
        self.lengths.append(answer_tokens)
        rollout, learn = 0.02 * answer_tokens, 1 + 0.01 * answer_tokens
        whole = max(rollout, learn) + 0.1 if max_staleness else rollout + learn + 0.1
        return StepTimes(whole=whole, rollout=rollout, learn=learn, sync=0.1)


def test_the_sides_are_balanced_by_the_answers_length() -> None:
    """The two times are equal at 100 tokens."""
    bench = PretendBench()
    length = bench.balanced_length()
    times = bench.times(max_staleness=0, answer_tokens=length)
    assert max(times.rollout, times.learn) / min(times.rollout, times.learn) < BALANCED + 0.15


def test_the_figures_of_a_step() -> None:
    overlap, speedup = step_figures(PretendBench(), answer_tokens=100)
    assert overlap.ratio == pytest.approx(2.1 / 2.0)
    assert speedup.ratio == pytest.approx(4.1 / 2.1)
