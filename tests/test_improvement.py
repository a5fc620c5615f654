"""GRPO improves the model that SFT leaves: the quickstart, and the same behind an SFT that no longer gains. Hours."""

from pathlib import Path

import pytest

from rex_rl.evaluation.comparison import Comparison, compare, gains_by_task, table
from tests.test_end_to_end import rex_rl

SEEDS = (0, 1, 2)
LONG_SFT_STEPS = 1200
"""Four times the quickstart's; that more gain nothing is not measured."""


def run(*arguments: str, root: Path, env: dict[str, str]) -> None:
    """A command that has to end well."""
    done = rex_rl(*arguments, root=root, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


def trained(root: Path, folder: Path, env: dict[str, str], *overrides: str) -> list[Comparison]:
    """The quickstart under every seed, each with its control; the table goes to the test's output."""
    for seed in SEEDS:
        name = f"seed{seed}"
        where = (f"run_root={folder}", f"name={name}", f"seed={seed}")
        run("train", "configs/quickstart.yaml", *where, *overrides, root=root, env=env)
        run("control", str(folder / name), root=root, env=env)
    comparisons = compare([folder / f"seed{seed}" for seed in SEEDS])
    print("\n".join(table(comparisons)))
    return comparisons


def few_duplicates(one: Comparison) -> bool:
    """At most a quarter of what SFT left, or 0.2 %."""
    return one.grpo["duplicate_rate"] <= max(one.sft["duplicate_rate"] / 4, 0.002)


@pytest.mark.soak
def test_the_quickstart_improves(root: Path, tmp_path: Path, ray_environment: dict[str, str]) -> None:
    """Fewer duplicates and no lost recall on every seed, and more `f1_miou` over the images of all."""
    comparisons = trained(root, tmp_path, ray_environment)
    assert all(map(few_duplicates, comparisons))
    assert min(one.gain("recall_50") for one in comparisons) >= -0.01
    sft, grpo = ([result for one in comparisons for result in one.answers[stage]] for stage in (0, 1))
    assert gains_by_task(sft, grpo)[0].interval[0] > 0


@pytest.mark.soak
def test_a_model_that_sft_no_longer_improves_loses_nothing(
    root: Path, tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """`f1_miou` not lower on the mean, on no seed by more than its interval, and as few duplicates."""
    comparisons = trained(root, tmp_path, ray_environment, f"sft.num_steps={LONG_SFT_STEPS}")
    assert all(map(few_duplicates, comparisons))
    assert sum(one.gain("f1_miou") for one in comparisons) >= 0
    assert all(task.interval[1] >= 0 for one in comparisons for task in one.tasks)
