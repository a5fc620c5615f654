"""The architecture as tests: who may import whom, how long files and the main loop may be, how fast help appears."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rewards", "rex_rl", "actors")
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
}

LAUNCHER = "rex_rl.launch"
CLUSTER_LIBRARIES = {"ray", "vllm", "deepspeed"}
HEAVY_LIBRARIES = CLUSTER_LIBRARIES | {"torch", "torchvision", "torchaudio", "transformers", "peft"}
FILE_MODULES = {"io", "os", "pathlib", "shutil", "tempfile", "PIL"}
TORCH_MODULES = {
    "rex_rl.attention",
    "rex_rl.batch",
    "rex_rl.bench_learner",
    "rex_rl.cpu_repair",
    "rex_rl.divergence",
    "rex_rl.importance",
    "rex_rl.loss",
    "rex_rl.lora",
    "rex_rl.model",
    "rex_rl.reference",
    "rex_rl.shapes.dense_head",
    "rex_rl.shapes.muon",
    "rex_rl.shapes.pretrain",
    "rex_rl.shapes.tiny",
    "rex_rl.surrogates",
}
MAX_FILE_LINES = 400
MAX_TRAIN_LINES, MAX_TRAIN_IFS = 60, 8
MAX_HELP_S = 0.5


@cache
def parsed(module: str) -> ast.Module:
    """A file's syntax tree, read once for all tests."""
    return ast.parse(FILES[module].read_text())


def imports_anywhere(module: str) -> set[str]:
    """Full names a file imports, inside functions and type-checking blocks too."""
    return set(_imports(ast.walk(parsed(module))))


def imports_on_load(module: str) -> set[str]:
    """Full names imported when the module is: not those in functions or under TYPE_CHECKING."""
    return set(_imports(_loaded(parsed(module))))


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _loaded(child)


def _imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def of_package(package: str) -> list[str]:
    return [module for module in FILES if module.partition(".")[0] == package]


def home_of(name: str) -> str | None:
    """The module of ours that an imported name lives in."""
    for candidate in (name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__"):
        if candidate in FILES:
            return candidate
    return None


@pytest.mark.parametrize("module", of_package("rewards"))
def test_rewards_are_pure(module: str) -> None:
    """Rewards are functions of arrays: no package of ours above them, no heavy library, no files."""
    assert not tops(imports_anywhere(module)) & (HEAVY_LIBRARIES | FILE_MODULES | {"rex_rl", "actors"})
    calls = [node.func for node in ast.walk(parsed(module)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "open"]


@pytest.mark.parametrize("module", of_package("rex_rl"))
def test_only_the_launcher_knows_the_cluster(module: str) -> None:
    """Ray, vLLM, DeepSpeed and the actors are reached through launch.py alone, lazily imported or not."""
    if module != LAUNCHER:
        assert not tops(imports_anywhere(module)) & (CLUSTER_LIBRARIES | {"actors"})


@pytest.mark.parametrize("module", of_package("rex_rl"))
def test_torch_stays_in_model_code(module: str) -> None:
    """Configuration, data, advantage, metrics, evaluation and both loops run without torch."""
    if module not in TORCH_MODULES:
        assert not tops(imports_anywhere(module)) & {"torch", "torchvision", "torchaudio", "transformers", "peft"}


@pytest.mark.parametrize("module", of_package("actors"))
def test_actors_do_not_reach_up(module: str) -> None:
    """An actor wraps a library; it knows neither the launcher nor the command line."""
    homes = {home_of(name) for name in imports_anywhere(module)}
    assert not homes & {LAUNCHER, "rex_rl.cli", "rex_rl.__main__", "rex_rl.grpo", "rex_rl.sft"}


def test_imports_form_no_circle() -> None:
    """Modules can be ordered so that each imports only those before it."""
    graph = {module: {home_of(name) for name in imports_on_load(module)} - {None, module} for module in FILES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")
    assert len(order) == len(FILES)


@pytest.mark.parametrize("module", FILES)
def test_files_stay_short(module: str) -> None:
    """A file fits in the head: 400 lines at most."""
    assert len(FILES[module].read_text().splitlines()) <= MAX_FILE_LINES


def test_the_grpo_loop_stays_a_table_of_contents() -> None:
    """`grpo.py::train` has at most 60 lines and 8 ifs, conditional expressions and filters included."""
    tree = parsed("rex_rl.grpo")
    (train,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train"]
    ifs = [node for node in ast.walk(train) if isinstance(node, ast.If | ast.IfExp)]
    filters = [test for node in ast.walk(train) if isinstance(node, ast.comprehension) for test in node.ifs]
    assert train.end_lineno is not None
    assert train.end_lineno - train.lineno + 1 <= MAX_TRAIN_LINES
    assert len(ifs) + len(filters) <= MAX_TRAIN_IFS


def test_help_is_quick() -> None:
    """`rex-rl --help` answers within half a second, once in five tries: a loaded machine only adds."""

    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rex_rl", "--help"], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - start

    assert any(seconds() < MAX_HELP_S for _ in range(5))
