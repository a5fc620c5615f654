"""Model folders: what can be used is found, what cannot is named, weights are never copied along."""

from pathlib import Path

import pytest

from rex_rl.errors import ModelError
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.policy import model_folder
from rex_rl.policy.model_folder import copy_model_files, resolve_model


@pytest.fixture
def folder(vocabulary: Vocabulary, tmp_path: Path) -> Path:
    """All files a model folder must have; nobody looks into the weights here."""
    target = tmp_path / "model"
    copy_model_files(vocabulary.folder, target)
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_bytes(b"weights")
    return target


def test_a_whole_folder_is_taken(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder


def test_tiny_is_the_shipped_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "SHIPPED_BASE", folder)
    assert resolve_model("tiny") == folder


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no *.safetensors"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_what_is_missing_is_named(folder: Path, missing: str, named: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder))
    assert named in str(caught.value)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "config", ['{"text_config": {"max_position_embeddings": 4096}}', '{"max_position_embeddings": 4096}']
)
def test_more_tokens_than_the_model_was_made_for_are_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    assert resolve_model(str(folder), max_model_len=4096) == folder
    with pytest.raises(ModelError, match=r"rollout\.max_model_len = 4097: above max_position_embeddings = 4096 in"):
        resolve_model(str(folder), max_model_len=4097)


def test_a_file_that_is_no_configuration_is_named(folder: Path) -> None:
    for text in ("{", "[]", '{"max_position_embeddings": "many"}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config.json: not a model's configuration"):
            resolve_model(str(folder))


def test_pickled_weights_are_refused(folder: Path) -> None:
    """They can run code when they are loaded."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="can run code"):
        resolve_model(str(folder))


def test_no_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_model(str(tmp_path / "nowhere"))


def test_everything_but_weights_is_copied(folder: Path, tmp_path: Path) -> None:
    """Neither shards nor their index, which would name files that are not there; folders stay behind."""
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "old.bin", "adapter.pt"):
        (folder / name).write_text("x")
    (folder / "sub").mkdir()
    target = tmp_path / "deep" / "copy"
    copy_model_files(folder, target)
    assert {file.name for file in target.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "chat_template.json",
        "generation_config.json",
    }
