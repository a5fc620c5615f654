"""Credit trials: each differs from its run in its form of credit alone, and the table puts the best one first."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rex_rl import launch
from rex_rl.config.load import Config, dump_config, load_config
from rex_rl.errors import DataError
from rex_rl.evaluation.credit_trials import FORMS, Trial, read_trial, table, trial_config
from rex_rl.run.folder import CONFIG, SUMMARY

SFT = {"f1_miou": 0.50, "duplicate_rate": 0.10, "recall_50": 0.60}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose SFT is done, as far as trials read it."""
    folder = tmp_path / "a"
    (folder / "stages" / "sft").mkdir(parents=True)
    config = load_config(Path("configs/quickstart.yaml"), ["name=a", f"run_root={tmp_path}", "seed=7"])
    (folder / CONFIG).write_text(dump_config(config))
    (folder / SUMMARY).write_text(json.dumps({"sft": SFT}))
    return folder


@pytest.mark.parametrize("credit", FORMS)
def test_a_trial_differs_in_its_credit_and_its_length_alone(run: Path, credit: str) -> None:
    """All else of GRPO stays the run's: seed, data, rates, the weights of the reward."""
    own, trial = load_config(run / CONFIG), trial_config(run, credit, 30)
    assert (trial.name, trial.stages) == (f"a-credit-{credit}", ("grpo",))
    assert trial.model.path == str(run / "stages" / "sft")
    assert (trial.grpo.num_steps, trial.grpo.advantage.credit) == (30, credit[:5] if credit != "none" else credit)
    assert credit == "none" or f"to_go_{trial.grpo.advantage.credit_lambda:g}" == credit
    assert (trial.seed, trial.data, trial.reward) == (own.seed, own.data, own.reward)
    assert trial.grpo.learning_rate == own.grpo.learning_rate
    assert trial.grpo.token_weighting == own.grpo.token_weighting


def test_a_run_without_an_sft_model_is_refused_by_its_folder(run: Path) -> None:
    (run / "stages" / "sft").rmdir()
    with pytest.raises(DataError, match=r"stages/sft: no such folder; a run whose SFT is done"):
        trial_config(run, "none", 30)


def test_a_run_without_figures_is_refused_before_any_trial(run: Path) -> None:
    """Such as a run interrupted after its SFT: the table could not be printed at the end."""
    (run / SUMMARY).unlink()
    with pytest.raises(DataError, match=r"summary\.json: no such file; a finished run is needed"):
        trial_config(run, "none", 30)


def test_a_figure_that_is_undefined_is_shown_as_such(run: Path, tmp_path: Path) -> None:
    """A summary holds null where a figure has no value."""
    trial = tmp_path / "a-credit-none"
    trial.mkdir()
    (trial / SUMMARY).write_text(json.dumps({"grpo": {"f1_miou": 0.53, "duplicate_rate": None, "recall_50": 0.7}}))
    found = read_trial(run, trial, "none")
    lines = table([replace(found, credit=credit) for credit in FORMS])
    assert all(line.endswith("| 53.00 % | nan % | 70.00 % |") for line in lines[2:-1])


def test_a_trial_is_compared_with_the_sft_of_its_run(run: Path, tmp_path: Path) -> None:
    trial = tmp_path / "a-credit-none"
    trial.mkdir()
    (trial / SUMMARY).write_text(json.dumps({"grpo": {"f1_miou": 0.53, "duplicate_rate": 0.02}}))
    found = read_trial(run, trial, "none")
    assert (found.run, found.credit) == ("a", "none")
    assert found.gain == pytest.approx(0.03)


def test_every_run_is_tried_under_every_form(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake `launch.train` makes a run's folder; the real one also skips finished runs."""
    asked = []

    def train(config: Config) -> Path:
        asked.append(config.name)
        config.run_folder.mkdir()
        (config.run_folder / SUMMARY).write_text(json.dumps({"grpo": {"f1_miou": 0.5 + 0.01 * len(asked)}}))
        return config.run_folder

    monkeypatch.setattr(launch, "train", train)
    trials = launch.credits([run], 3)
    assert asked == [f"a-credit-{credit}" for credit in FORMS]
    assert [round(trial.gain, 2) for trial in trials] == [0.01 * nth for nth in range(1, 1 + len(FORMS))]


def test_the_table_puts_the_largest_mean_gain_first() -> None:
    """Two runs; `to_go_0.95` loses in one of them and wins on the mean."""
    f1_of = {"none": (0.51, 0.51), "to_go_1": (0.50, 0.50), "to_go_0.95": (0.49, 0.57), "to_go_0.9": (0.49, 0.50)}
    trials = [
        Trial(run=run, credit=credit, sft=SFT, grpo={"f1_miou": f1, "duplicate_rate": 0.05, "recall_50": 0.7})
        for credit, f1s in f1_of.items()
        for run, f1 in zip(("a", "b"), f1s, strict=True)
    ]
    lines = table(trials)
    assert lines[0] == "| credit | a | b | mean gain of f1_miou | f1_miou | duplicate_rate | recall_50 |"
    assert lines[2] == "| to_go_0.95 | -1.00 | +7.00 | +3.00 | 53.00 % | 5.00 % | 70.00 % |"
    assert [line.split(" | ")[0] for line in lines[3:]] == ["| none", "| to_go_1", "| to_go_0.9", "| after SFT"]
    assert lines[-1].endswith("| 50.00 % | 10.00 % | 60.00 % |")
