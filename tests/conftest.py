"""What all tests share: marks, and an environment that neither sees nor changes the user's own."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from rex_rl.language.codec import Codec
from rex_rl.language.vocabulary import Vocabulary, load_vocabulary
from tests.support.faulty_job import NUM_STEPS, OVERRIDES, FaultyJob, StartJob

ROOT = Path(__file__).parents[1]

_FOREIGN = ("REX_RUN_ROOT", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS", "WANDB_API_KEY")

# A loaded machine draws its examples slowly, which is no fault of a test.
_ANY_SPEED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("short", derandomize=True, database=None, max_examples=30, **_ANY_SPEED)
settings.register_profile("soak", print_blob=True, max_examples=2_000, **_ANY_SPEED)


def pytest_configure(config: pytest.Config) -> None:
    """`short` tries the same few examples every time, `soak` looks for new ones; HYPOTHESIS_PROFILE names another."""
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("soak" if _is_soak(config) else "short"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever is not `engine` or `soak` is `unit`; in a soak properties take part, with the examples of a soak."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("engine", "soak")):
            is_property = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
            item.add_marker("soak" if is_property and _is_soak(config) else "unit")


def _is_soak(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "soak"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that give Ray a token of its own, for subprocesses: the user's is neither needed nor changed."""
    token = tmp_path_factory.mktemp("ray") / "auth_token"
    token.write_text(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster in this process, with a token of its own."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def start_job(tmp_path_factory: pytest.TempPathFactory, ray_environment: dict[str, str]) -> Iterator[StartJob]:
    """Starts small real runs in processes of their own; ends what is left of them."""
    jobs: list[FaultyJob] = []

    def start(
        name: str, *overrides: str, num_steps: int = NUM_STEPS, module: str = "rex_rl", **environment: str
    ) -> FaultyJob:
        folder = tmp_path_factory.mktemp(name) / name
        settings = (*OVERRIDES, f"grpo.num_steps={num_steps}", *overrides)
        job = FaultyJob(folder, settings, ray_environment | environment, module)
        jobs.append(job)
        return job.start()

    yield start
    for job in jobs:
        job.close()


@pytest.fixture(scope="session")
def quiet_job(start_job: StartJob) -> FaultyJob:
    """A finished run of both stages to which nothing happened."""
    job = start_job("quiet")
    job.finish()
    return job


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Qwen2.5-VL with random weights, float32."""
    from rex_rl.shapes.tiny import write_random_model

    return write_random_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """The tiny model's token layout; no weights are made for it."""
    from rex_rl.shapes.tiny import default_tokenizer, write_processor_files

    folder = tmp_path_factory.mktemp("tokenizer")
    write_processor_files(folder, default_tokenizer())
    return load_vocabulary(folder)


@pytest.fixture(scope="session")
def codec(vocabulary: Vocabulary) -> Codec:
    """Answers in the tiny model's tokens."""
    return Codec(vocabulary)
