"""The files in configs/ and what they promise."""

from pathlib import Path

import pytest

from rex_rl.config.load import load_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_file_loads(file: Path) -> None:
    """Each is valid, and its run's name is its file's, so that runs/NAME is found again."""
    assert load_config(file).name == file.stem


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_small_runs_fit_on_two_cores(name: str, root: Path) -> None:
    """Workers, ranks and reward workers together reserve at most two cores and no GPU."""
    config = load_config(root / "configs" / f"{name}.yaml")
    assert sum(part.num_workers * part.num_cpus for part in (config.rollout, config.reward_workers)) <= (
        2 - config.learner.num_ranks * config.learner.num_cpus
    )
    assert config.rollout.num_gpus == config.learner.num_gpus == 0


def test_the_smoke_run_takes_a_users_own_data(root: Path, tmp_path: Path) -> None:
    """A COCO file and a folder of images are all that has to be named."""
    overrides = [f"data.train={tmp_path}/boxes.json", f"data.images={tmp_path}"]
    config = load_config(root / "configs" / "smoke.yaml", overrides)
    assert config.data.images == tmp_path


def test_the_large_config_is_ready_to_submit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rex_omni_3b.yaml names absolute paths only, so a submitted job takes it as it is; it uses 8 GPUs."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = load_config(root / "configs" / "rex_omni_3b.yaml")
    gpus = config.rollout.num_workers * config.rollout.num_gpus + config.learner.num_ranks * config.learner.num_gpus
    assert gpus == 8
