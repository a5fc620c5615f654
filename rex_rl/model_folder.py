"""Model folders: Hugging Face files on disk, which vLLM and transformers load."""

import shutil
from pathlib import Path

from rex_rl.config_schema import TINY_MODEL
from rex_rl.errors import ModelError
from rex_rl.vocabulary import load_vocabulary

SHIPPED_BASE = Path(__file__).parent / "shapes" / "base"
"""The small pre-trained base of the shapes world (made by rex_rl/shapes/pretrain.py)."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_SHARD_INDEX = "model.safetensors.index.json"


def resolve_model(path: str) -> Path:
    """The folder a config's `model.path` means, checked; raises ModelError naming what is missing."""
    folder = SHIPPED_BASE if path == TINY_MODEL else Path(path)
    if not folder.is_dir():
        raise ModelError(f"model.path = {path}: no such folder")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, so not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no *.safetensors; other weight formats are not read, since they can run code")
    load_vocabulary(folder)
    return folder


def copy_model_files(source: Path, target: Path) -> None:
    """Copy configuration, tokenizer and processor files, everything but weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix not in _WEIGHT_SUFFIXES and file.name != _SHARD_INDEX:
            shutil.copyfile(file, target / file.name)
