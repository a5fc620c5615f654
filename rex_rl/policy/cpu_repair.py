"""Make torchvision, torchaudio and torchcodec harmless beside a CPU build of torch.

Qwen2.5-VL's processor needs torchvision, and vLLM's CPU package asks for all three. Where only their CUDA builds are
available, importing them beside a CPU torch fails: torchvision because its C++ operators are missing ("operator
torchvision::nms does not exist"; nothing here calls them, so declaring their schemas is enough), the other two because
a CUDA library is (nothing here uses them, so they are reported as not installed). Call :func:`repair` before anything
that may import transformers or vLLM; where the CPU builds are present it changes nothing.
"""

import functools
import importlib
import sys

import torch

_OPERATORS = ("nms", "qnms")
_UNUSED = ("torchaudio", "torchcodec")


@functools.cache
def repair() -> tuple[str, ...]:
    """Repair what needs it, once per process; returns the names of what was repaired."""
    return (*_repair_torchvision(), *(name for name in _UNUSED if _hide_if_broken(name)))


def _repair_torchvision() -> tuple[str, ...]:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in _OPERATORS:
            _operators().define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        return ("torchvision",)
    return ()


@functools.cache
def _operators() -> torch.library.Library:
    """The operators' schemas live as long as this object, so it is kept for the life of the process."""
    return torch.library.Library("torchvision", "FRAGMENT")


def _hide_if_broken(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        return False
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]
        sys.modules[package] = None  # type: ignore[assignment]  # find_spec and import then say "not installed"
        return True
    return False
