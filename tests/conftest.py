"""What all tests share: marks, and an environment that neither sees nor changes the user's own."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from rex_rl.codec import Codec
from rex_rl.vocabulary import Vocabulary, load_vocabulary

ROOT = Path(__file__).parents[1]

_FOREIGN = ("REX_RUN_ROOT", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS", "WANDB_API_KEY")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("engine", "soak")):
            item.add_marker(pytest.mark.unit)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
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
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Qwen2.5-VL with random weights, float32."""
    from rex_rl.shapes.tiny import build_model, default_tokenizer, write_processor_files

    folder, tokenizer = tmp_path_factory.mktemp("tiny"), default_tokenizer()
    write_processor_files(folder, tokenizer)
    build_model(tokenizer, seed=0).save_pretrained(folder)
    return folder


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
