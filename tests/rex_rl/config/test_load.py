"""Configuration: what loads, what is refused and with which message, what is written down."""

from dataclasses import asdict
from pathlib import Path

import pytest

from rewards.records import RewardWeights
from rex_rl.config.load import Config, config_reference, dump_config, load_config
from rex_rl.config.schema import SHAPES_TASKS
from rex_rl.errors import ConfigError
from rex_rl.language.tasks import TASKS

MINIMAL = "name: run\nmodel: {path: tiny}\ndata: {train: shapes}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(file: Path, *overrides: str) -> str:
    """The one line of the error for a wrong configuration."""
    with pytest.raises(ConfigError) as error:
        load_config(file, overrides)
    assert error.value.exit_status == 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_papers_settings_are_the_defaults(file: Path) -> None:
    """Group size, prompts a step, KL weight and SFT rates are those of arXiv 2510.12798, 4.1 and 4.2.4."""
    config = load_config(file)
    assert (config.grpo.group_size, config.grpo.prompts_per_step, config.grpo.kl_beta) == (8, 64, 0.01)
    assert config.sft.learning_rate.model_dump() == {"vision": 2e-6, "projector": 2e-5, "language": 2e-5}
    assert (config.sft.warmup_fraction, config.sft.weight_decay) == (0.03, 0.01)


def test_reward_weights_are_those_of_the_rewards_package(file: Path) -> None:
    """The configuration's default weights and the reward's own are the same, by name and value."""
    assert load_config(file).reward.weights.model_dump() == asdict(RewardWeights())


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "0.000001", "1.0e-06"])
def test_every_way_to_write_a_small_number_is_a_number(file: Path, text: str) -> None:
    """Plain PyYAML reads `1e-6` as a text; here it is a float in a file and in an override."""
    file.write_text(f"{MINIMAL}sft: {{learning_rate: {{vision: {text}}}}}\n")
    config = load_config(file, [f"grpo.learning_rate.vision={text}"])
    assert config.sft.learning_rate.vision == config.grpo.learning_rate.vision == 1e-6


def test_later_overrides_win_and_leave_neighbours_alone(file: Path) -> None:
    """An override changes its own key only; of two, the later counts."""
    config = load_config(file, ["grpo.num_steps=7", "stages=[grpo]", "grpo.num_steps=9"])
    assert config.grpo.num_steps == 9
    assert config.stages == ("grpo",)
    assert config.grpo.group_size == 8


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("grpo.num_step=3", "unknown key grpo.num_step; did you mean grpo.num_steps?"),
        ("grop.num_steps=3", "unknown key grop; did you mean grpo?"),
        ("sft.max_answer_tokens=31", "unknown key sft.max_answer_tokens"),
        ("learner.deepspeed_config.x=1", "did you mean learner.deepspeed?"),
        ("grpo.group_size=1", "grpo.group_size = 1: should be greater than or equal to 2"),
        ("grpo.num_steps=2.5", "grpo.num_steps = 2.5: should be a valid integer"),
        ("grpo.num_steps=true", "grpo.num_steps = true: should be a valid integer"),
        ("grpo.temperature=.nan", "grpo.temperature = nan: should be a finite number"),
        ("sft.schedule=cosin", "sft.schedule = cosin: should be 'cosine', 'constant' or 'linear'"),
        ("sft=null", "sft = null: should be a section"),
        ("stages=sft", "stages = sft: should be a list"),
        ("stages=[]", "stages = []: should be one of [sft], [grpo], [sft, grpo]"),
        ("stages=[grpo, sft]", "stages = [grpo, sft]: should be one of"),
        ("name=../x", "name = ../x: should be letters"),
        ("grpo.clip_low=0.5", "grpo.clip_low = 0.5: above grpo.clip_high = 0.3"),
        ("grpo.algorithm=ppo", "grpo.algorithm = ppo: should be 'grpo', 'dr_grpo', 'dapo', 'gspo' or 'cispo'"),
        ("grpo.importance=tis", "grpo.importance = tis: needs grpo.old_logprobs = recompute"),
        ("grpo.overlong_buffer=5000", "grpo.overlong_buffer = 5000: above grpo.max_answer_tokens = 4096"),
        ("grpo.frozen=[vision, projector, language]", "leaves nothing to train"),
        ("learner.num_ranks=65", "learner.num_ranks = 65: more than grpo.prompts_per_step = 64"),
        ("sft.gradient_accumulation=129", "more pieces than sft.batch_size = 128"),
        ("rollout.max_model_len=4096", "leaves no room for a prompt within rollout.max_model_len = 4096"),
        ("learner.deepspeed.bf16.enabled=true", "bf16 is set by model.dtype"),
        ("learner.deepspeed.zero_optimization.stage=4", "stage should be 0, 1, 2 or 3"),
        ("data.images=photos", "`data.train: shapes` brings its own"),
        ("reward.custom.size=team:size", "reward.custom.size.function = team:size: not on the list reward.allow"),
        ("reward.custom.f1=team:size", "reward.custom.f1: a term of that name exists"),
        ("reward.custom.size=team size", "should be package.module:function or an entry point"),
        (
            "reward.custom.size={function: size, low: 1}",
            "reward.custom.size.low = 1: not below reward.custom.size.high",
        ),
        ("reward.custom.size={function: size, wieght: 1}", "unknown key reward.custom.size.wieght"),
        ("reward.custom.Size=size", "reward.custom.Size"),
        ("reward.task_weights.walking.f1=1", "reward.task_weights.walking: no such task; known are detection"),
        ("reward.task_weights.pointing.f2=1", "reward.task_weights.pointing.f2: no such term; known are f1, "),
        ("reward.task_weights.pointing.surplus=-1", "a penalty is subtracted already"),
        ("reward.task_weights.pointing.f1=.inf", "reward.task_weights.pointing.f1 = inf: should be"),
        ("reward.canaries.every=-1", "reward.canaries.every = -1: should be greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_limit_and_its_place(file: Path, override: str, expected: str) -> None:
    """Key, value, limit and file are in one line, which says that the value came from the command line."""
    message = refusal(file, override)
    assert expected in message
    assert message.startswith(f"{file}, override: ")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ("sequence_mean", 0.2, 0.3, True, "k3", 5.0)),
        (["grpo.algorithm=dr_grpo"], ("constant", 0.2, 0.3, False, "k3", 5.0)),
        (["grpo.algorithm=dr_grpo", "grpo.advantage.credit_lambda=0.5"], ("constant", 0.2, 0.3, False, "k3", 5.0)),
        (["grpo.algorithm=dapo"], ("token_mean", 0.2, 0.28, True, "k3", 5.0)),
        (["grpo.algorithm=gspo"], ("sequence_mean", 3e-4, 4e-4, True, "k3", 5.0)),
        (["grpo.algorithm=cispo", "grpo.clip_high=2"], ("token_mean", 1.0, 2.0, True, "k3", 5.0)),
        (["grpo.token_weighting=constant"], ("constant", 0.2, 0.3, True, "k3", 5.0)),
        (["grpo.kl_in=reward"], ("sequence_mean", 0.2, 0.3, True, "k1", 5.0)),
        (["grpo.old_logprobs=recompute", "grpo.importance=tis"], ("sequence_mean", 0.2, 0.3, True, "k3", 2.0)),
    ],
)
def test_an_algorithm_sets_what_is_not_given(
    file: Path, tmp_path: Path, overrides: list[str], expected: tuple[object, ...]
) -> None:
    """The resolved configuration shows the values and loads to the same."""
    config = load_config(file, overrides)
    one = config.grpo
    values = (one.token_weighting, one.clip_low, one.clip_high, one.advantage.normalise_std, one.kl_estimator)
    assert (*values, one.importance_high) == expected
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["learner.attention=flex"], "learner.attention = flex: cannot train on CPUs"),
        (["grpo.reference=lora_off"], "grpo.reference = lora_off: needs adapters to switch off"),
        (["learner.lora.rank=8", "sft.frozen=[language]"], "nothing to train, as learner.lora adapts [language]"),
        (["learner.lora.language=[q_proj, lm_head]"], "learner.lora.language[1] = lm_head: should be 'q_proj'"),
        (["learner.lora.rank=-1"], "learner.lora.rank = -1: should be greater than or equal to 0"),
    ],
)
def test_impossible_adapters_are_refused(file: Path, overrides: list[str], expected: str) -> None:
    assert expected in refusal(file, *overrides)


def test_a_part_without_adapters_may_stay_frozen(file: Path) -> None:
    config = load_config(file, ["learner.lora.rank=8", "grpo.reference=lora_off", "grpo.frozen=[vision, projector]"])
    assert config.learner.trained_parts(config.grpo.frozen) == {"language"}
    assert config.learner.lora.targets.keys() == {"language"}


@pytest.mark.parametrize("override", ["num_steps", "=3", "a..b=3", "grpo.=3", "--seed=3", "wandb.group=["])
def test_an_override_that_is_not_key_value_is_refused(file: Path, override: str) -> None:
    """The override itself is quoted, so that a shell's quoting mistake is seen."""
    assert repr(override) in refusal(file, override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: run\n", "model.path is missing (and 1 more)"),
        ("- sft\n", "should hold `key: value` lines"),
        ("name: a: b\n", "is not YAML"),
        ("name: a\nname: b\n", "duplicate key name"),
        (f"{MINIMAL}sft.num_steps: 3\n", "unknown key sft.num_steps; write it nested, `sft: {num_steps: ..}`"),
    ],
)
def test_a_wrong_file_is_named(file: Path, text: str, expected: str) -> None:
    """The message names the file and what is wrong in it."""
    file.write_text(text)
    message = refusal(file)
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No traceback for a mistyped path."""
    assert refusal(tmp_path / "nope.yaml") == f"{tmp_path}/nope.yaml: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.tasks=[detection, keypoint_foot]", "data.tasks[1] = keypoint_foot: no such task; known are detection, "),
        ("data.tasks=[]", "data.tasks = []: "),
        ("data.tasks=[pointing, pointing]", "data.tasks = [pointing, pointing]: names a task twice"),
        ("data.tasks=[layout, ocr_box]", "`data.train: shapes` has no layout; it has detection, pointing, "),
    ],
)
def test_tasks_that_cannot_be_trained_are_refused(file: Path, override: str, expected: str) -> None:
    assert expected in refusal(file, "data.train=shapes", override)


def test_every_task_can_be_trained(file: Path) -> None:
    assert load_config(file, [f"data.tasks=[{', '.join(TASKS)}]", "data.train=a.jsonl"]).data.tasks == tuple(TASKS)
    assert set(SHAPES_TASKS) <= set(TASKS)


def test_the_resolved_config_loads_to_the_same(file: Path, tmp_path: Path) -> None:
    """What is written to the run's folder is the whole configuration, small numbers and nested blocks included."""
    config = load_config(file, ["learner.deepspeed.zero_optimization.stage=3", "grpo.learning_rate.vision=1e-7"])
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


def test_own_reward_terms_and_task_weights_are_kept_as_they_were_given(file: Path, tmp_path: Path) -> None:
    """A function alone stands for a section with its defaults; both forms load again from the run's folder."""
    config = load_config(
        file,
        [
            "reward.allow=[team, other.terms:colour]",
            "reward.custom.size=team.terms:size",
            "reward.custom.colour={function: other.terms:colour, weight: -2, low: -1, high: 3}",
            "reward.custom.shape={function: installed-name, weight: 0}",
            "reward.task_weights.pointing={size: 0.5, duplicates: 1}",
        ],
    )
    assert config.reward.custom["size"].model_dump() == {
        "function": "team.terms:size",
        "weight": 1.0,
        "low": 0.0,
        "high": 1.0,
    }
    assert config.reward.custom_weights_of("pointing") == {"size": 0.5, "colour": -2.0, "shape": 0.0}
    assert config.reward.custom_weights_of("detection") == {"size": 1.0, "colour": -2.0, "shape": 0.0}
    assert config.reward.weights_of("pointing") == config.reward.weights_of("detection") | {"duplicates": 1.0}
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


@pytest.mark.parametrize("extra", ["reward.custom.size=size", "reward.task_weights.pointing.f1=2"])
@pytest.mark.parametrize("name", ["paper", "official"])
def test_a_published_formula_stays_alone(file: Path, name: str, extra: str) -> None:
    """Weights and own terms would be ignored beside it, so they are refused."""
    assert f"reward.name = {name} is a formula alone" in refusal(file, f"reward.name={name}", extra)


def test_an_environment_variable_is_never_copied_into_the_resolved_config(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OmegaConf's `${oc.env:..}` stays a text: a secret named that way does not reach the run's folder."""
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    assert "secret-key" not in dump_config(load_config(file, ["wandb.group=${oc.env:WANDB_API_KEY}"]))


def test_the_reference_explains_every_key() -> None:
    """Each key has a meaning, each number bounds, and the keys are those of the resolved configuration."""
    docs = {doc.key: doc for doc in config_reference()}
    assert [doc.key for doc in docs.values() if not doc.meaning or not doc.type or not doc.default] == []
    assert [doc.key for doc in docs.values() if doc.type in ("int", "float") and not doc.bounds] == []
    config = Config.model_validate({"name": "run", "model": {"path": "tiny"}, "data": {"train": "shapes"}})
    assert set(docs) == set(_leaves(config.model_dump()))


def _leaves(values: dict[str, object], prefix: str = "") -> list[str]:
    """Dotted keys of nested sections; a DeepSpeed block and what a user names is one value."""
    keys = []
    whole = ("deepspeed", "custom", "task_weights")
    for name, value in values.items():
        key = prefix + name
        keys += _leaves(value, f"{key}.") if isinstance(value, dict) and name not in whole else [key]
    return keys


def test_paths_become_absolute(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors work in other directories than the driver, so relative paths are filled in at load."""
    monkeypatch.chdir(tmp_path)
    config = load_config(file, ["model.path=base", "data.train=train.json", "data.images=photos"])
    assert config.run_folder == tmp_path / "runs" / "run"
    assert (config.model.path, config.data.train) == (f"{tmp_path}/base", f"{tmp_path}/train.json")
    assert config.data.images == tmp_path / "photos"


def test_the_run_root_comes_from_the_environment_unless_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REX_RUN_ROOT is the default of `run_root`; an override wins over it."""
    monkeypatch.setenv("REX_RUN_ROOT", str(tmp_path / "env"))
    assert load_config(file).run_folder == tmp_path / "env" / "run"
    assert load_config(file, [f"run_root={tmp_path}/named"]).run_root == tmp_path / "named"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([], "run_root = runs"),
        (["run_root=here"], "run_root = here"),
        (["run_root=/shared", "data.train=train.json"], "data.train = train.json"),
        (["run_root=/shared", "data.train=/train.json", "data.images=photos"], "data.images = photos"),
        (["run_root=/shared", "model.path=base"], "model.path = base"),
    ],
)
def test_a_relative_path_in_a_submitted_job_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], key: str
) -> None:
    """The line says why: the working directory of a job is a temporary copy on one node."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    message = refusal(file, *overrides)
    assert key in message
    assert "temporary copy on one node" in message


def test_words_that_stand_for_shipped_things_are_no_paths_in_a_job(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny` and `shapes` work in a job as they do elsewhere."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = load_config(file, ["run_root=/shared"])
    assert (config.model.path, config.data.train) == ("tiny", "shapes")
