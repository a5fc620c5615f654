"""Model folders: Hugging Face files on disk, which vLLM and transformers load."""

import json
import shutil
from pathlib import Path

from rex_rl.config.schema import TINY_MODEL
from rex_rl.errors import ModelError
from rex_rl.language.vocabulary import load_vocabulary

SHIPPED_BASE = Path(__file__).parents[1] / "shapes" / "base"
"""The small pre-trained base of the shapes world (made by rex_rl/shapes/pretrain.py)."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_SHARD_INDEX = "model.safetensors.index.json"


QWEN_CONTEXT_TOKENS = 32_768
"""Context that transformers gives a Qwen2.5-VL whose config.json names none."""


def resolve_model(path: str, *, max_model_len: int = 0) -> Path:
    """The folder that a config's `model.path` means, checked for files and for `rollout.max_model_len` tokens.

    Raises:
        ModelError: a file is missing, or the model was made for fewer tokens.
    """
    folder = SHIPPED_BASE if path == TINY_MODEL else Path(path)
    if not folder.is_dir():
        raise ModelError(f"model.path = {path}: no such folder")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, so not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no *.safetensors; other weight formats are not read, since they can run code")
    load_vocabulary(folder)
    if max_model_len > (limit := context_tokens(folder)):
        raise ModelError(
            f"rollout.max_model_len = {max_model_len}: above max_position_embeddings = {limit} "
            f"in {folder / 'config.json'}"
        )
    return folder


def context_tokens(folder: Path) -> int:
    """How many tokens of prompt, image and answer a model was made for (config.json: max_position_embeddings)."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
        text = config.get("text_config", config)  # older files hold the language model's values at the top level
        return int(text.get("max_position_embeddings", QWEN_CONTEXT_TOKENS))
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: not a model's configuration: {error}") from error


def copy_model_files(source: Path, target: Path) -> None:
    """Copy configuration, tokenizer and processor files, everything but weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix not in _WEIGHT_SUFFIXES and file.name != _SHARD_INDEX:
            shutil.copyfile(file, target / file.name)
