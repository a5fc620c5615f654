"""The repair of CUDA-only companions: what is broken for the known reason is mended, anything else is left alone."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rex_rl.policy import cpu_repair
from rex_rl.policy.cpu_repair import repair


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of an importable package whose content a test writes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "frail_package").mkdir()
    yield "frail_package"
    for name in [name for name in sys.modules if name.split(".")[0] == "frail_package"]:
        del sys.modules[name]


def write(tmp_path: Path, package: str, code: str) -> None:
    (tmp_path / package / "__init__.py").write_text(code)
    importlib.invalidate_caches()


def test_after_it_the_processors_backend_can_be_imported() -> None:
    """And it is done once per process, whatever it found."""
    assert repair() is repair()
    assert importlib.import_module("torchvision").__name__ == "torchvision"
    assert importlib.import_module("torchvision.transforms.v2")


@pytest.mark.parametrize("error", ["OSError('libcudart.so.13: cannot open')", "RuntimeError('CUDA')"])
def test_a_broken_package_is_reported_as_not_installed(tmp_path: Path, package: str, error: str) -> None:
    """`find_spec`, which transformers and vLLM ask, and `import` then agree."""
    write(tmp_path, package, f"import sys\nsys.modules[__name__ + '.half'] = sys\nraise {error}")
    assert cpu_repair._hide_if_broken(package) is True
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(package)
    assert f"{package}.half" not in sys.modules
    assert importlib.util.find_spec(package) is None


def test_a_sound_package_is_left_alone(tmp_path: Path, package: str) -> None:
    write(tmp_path, package, "answer = 42")
    assert cpu_repair._hide_if_broken(package) is False
    assert importlib.import_module(package).answer == 42


def test_a_package_that_is_not_installed_needs_nothing() -> None:
    assert cpu_repair._hide_if_broken("no_such_package_at_all") is False


def test_another_fault_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(cpu_repair.importlib, "import_module", fails)
    with pytest.raises(RuntimeError, match="something else"):
        cpu_repair._repair_torchvision()


def test_the_known_fault_of_torchvision_is_mended_by_declaring_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both schemas, then one more try."""
    attempts, defined = [], []

    def fails_once(name: str) -> None:
        attempts.append(name)
        if len(attempts) == 1:
            raise RuntimeError("operator torchvision::nms does not exist")

    class Operators:
        def define(self, schema: str) -> None:
            defined.append(schema.partition("(")[0])

    monkeypatch.setattr(cpu_repair.importlib, "import_module", fails_once)
    monkeypatch.setattr(cpu_repair, "_operators", Operators)
    assert cpu_repair._repair_torchvision() == ("torchvision",)
    assert (len(attempts), defined) == (2, ["nms", "qnms"])
