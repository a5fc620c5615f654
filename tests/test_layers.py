"""The architecture as tests: which package may import which, how large anything may be, how fast help appears."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("rewards", "rex_rl", "actors")

LAYERS = {
    "rewards.geometry": "",
    "rewards": "rewards.geometry",
    "rex_rl.errors": "",
    "rex_rl.types": "rewards.geometry",
    "rex_rl.interfaces": "rex_rl.types",
    "rex_rl.language": "rewards rewards.geometry rex_rl.errors rex_rl.types",
    "rex_rl.config": "rex_rl.errors rex_rl.language",
    "rex_rl.policy": "rex_rl.config rex_rl.errors rex_rl.language",
    "rex_rl.learning": "rex_rl.config rex_rl.types",
    "rex_rl.shapes": "rex_rl.errors rex_rl.language rex_rl.policy",
    "rex_rl.plan": "rex_rl.config rex_rl.errors rex_rl.policy",
    "rex_rl.data": "rewards.geometry rex_rl.config rex_rl.errors rex_rl.language rex_rl.shapes rex_rl.types",
    "rex_rl.scoring": "rewards rex_rl.config rex_rl.data rex_rl.errors rex_rl.language rex_rl.types",
    "rex_rl.rollout": "rex_rl.config rex_rl.data rex_rl.errors rex_rl.interfaces rex_rl.learning rex_rl.types",
    "rex_rl.run": "rex_rl.config rex_rl.data rex_rl.errors rex_rl.interfaces rex_rl.learning rex_rl.types",
    "rex_rl.evaluation": (
        "rewards rewards.geometry rex_rl.config rex_rl.data rex_rl.errors rex_rl.interfaces rex_rl.language rex_rl.run "
        "rex_rl.types"
    ),
    "rex_rl.report": "rex_rl.data rex_rl.errors rex_rl.evaluation rex_rl.language rex_rl.run rex_rl.types",
    "rex_rl.sft": (
        "rex_rl.config rex_rl.data rex_rl.evaluation rex_rl.interfaces rex_rl.language rex_rl.learning rex_rl.run"
    ),
    "rex_rl.grpo": "rex_rl.config rex_rl.evaluation rex_rl.interfaces rex_rl.learning rex_rl.run rex_rl.scoring",
    "rex_rl.bench": (
        "rewards rewards.geometry rex_rl.config rex_rl.data rex_rl.errors rex_rl.grpo rex_rl.interfaces "
        "rex_rl.language rex_rl.plan rex_rl.policy rex_rl.rollout rex_rl.shapes rex_rl.types"
    ),
    "actors.identity": "",
    "actors.weights": "rex_rl.run",
    "actors.rollout": (
        "actors.identity actors.weights rex_rl.config rex_rl.data rex_rl.errors rex_rl.language rex_rl.policy "
        "rex_rl.rollout rex_rl.run rex_rl.types"
    ),
    "actors.learner": (
        "actors.identity actors.weights rex_rl.config rex_rl.data rex_rl.errors rex_rl.language rex_rl.learning "
        "rex_rl.policy rex_rl.run rex_rl.types"
    ),
    "actors.cluster": (
        "actors.identity actors.learner actors.rollout actors.weights rex_rl.config rex_rl.errors rex_rl.language "
        "rex_rl.learning rex_rl.rollout rex_rl.scoring rex_rl.types"
    ),
    "actors.bench": (
        "actors.cluster actors.learner actors.rollout actors.weights rex_rl.bench rex_rl.config rex_rl.data "
        "rex_rl.errors rex_rl.language rex_rl.learning rex_rl.policy rex_rl.shapes rex_rl.types"
    ),
    "rex_rl.launch": (
        "actors.bench actors.cluster actors.rollout rex_rl.bench rex_rl.config rex_rl.data rex_rl.errors "
        "rex_rl.evaluation rex_rl.grpo rex_rl.language rex_rl.policy rex_rl.report rex_rl.rollout rex_rl.run "
        "rex_rl.scoring rex_rl.sft rex_rl.types"
    ),
    "rex_rl.cli": (
        "rex_rl.bench rex_rl.config rex_rl.data rex_rl.errors rex_rl.evaluation rex_rl.launch rex_rl.plan "
        "rex_rl.report rex_rl.scoring rex_rl.shapes"
    ),
    "rex_rl.__main__": "rex_rl.cli",
}
"""Package, or a module outside of one -> all of ours that it imports. A row names rows above it: there is no cycle."""

CLUSTER_LIBRARIES = {"ray", "vllm", "deepspeed"}
MODEL_LIBRARIES = {"torch", "torchvision", "torchaudio", "transformers", "peft"}
FILE_MODULES = {"io", "os", "pathlib", "shutil", "tempfile", "PIL"}
TORCH_MODULES = {
    "rex_rl.bench.learner",
    "rex_rl.learning.divergence",
    "rex_rl.learning.importance",
    "rex_rl.learning.loss",
    "rex_rl.learning.surrogates",
    "rex_rl.policy.attention",
    "rex_rl.policy.cpu_repair",
    "rex_rl.policy.lora",
    "rex_rl.policy.model",
    "rex_rl.policy.reference",
    "rex_rl.shapes.dense_head",
    "rex_rl.shapes.muon",
    "rex_rl.shapes.pretrain",
    "rex_rl.shapes.tiny",
}
MAX_FOLDER_FILES, MAX_FILE_LINES, MAX_FUNCTION_LINES = 12, 400, 60
LONG_FUNCTIONS: dict[str, str] = {}
"""`path::function` -> why it is longer."""
MAX_TRAIN_LINES, MAX_TRAIN_IFS = 60, 8
MAX_HELP_S = 0.5


def name_of(file: Path) -> str:
    """`rex_rl.data.coco`; a package's `__init__.py` has the package's name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(file): file for package in OURS for file in sorted((ROOT / package).rglob("*.py"))}
SOURCES = sorted(file for package in (*OURS, "tests") for file in (ROOT / package).rglob("*.py"))


@cache
def parsed(file: Path) -> ast.Module:
    """A file's syntax tree, read once for all tests."""
    return ast.parse(file.read_text())


def imports(module: str) -> set[str]:
    """Full names a module imports, inside functions and type-checking blocks too."""
    return set(_imports(ast.walk(parsed(FILES[module]))))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(module: str) -> set[str]:
    """Names of the packages it imports, ours included."""
    return {name.partition(".")[0] for name in imports(module)}


def layer_of(name: str) -> str | None:
    """The row of the table that a module of ours, or a name imported from one, belongs to."""
    while name and name not in LAYERS:
        name = name.rpartition(".")[0]
    return name or None


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def modules_in(package: str) -> list[str]:
    return [module for module in FILES if module.partition(".")[0] == package]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_what_its_row_says(layer: str) -> None:
    """No more, so that every arrow is in the table, and no less, so that the table is what the code does."""
    ours = {name for module in FILES if layer_of(module) == layer for name in imports(module) if is_ours(name)}
    assert not [name for name in ours if layer_of(name) is None], "a whole package hides which layer is meant"
    assert {layer_of(name) for name in ours} - {layer} == set(LAYERS[layer].split())


def test_the_table_has_every_module_and_no_cycle() -> None:
    """Each row names rows above it only, and no module of ours is without a row."""
    above: set[str] = set()
    for layer, row in LAYERS.items():
        assert set(row.split()) <= above, layer
        above.add(layer)
    assert [module for module in FILES if layer_of(module) is None] == ["rex_rl", "actors"]  # docstrings alone


def test_modules_form_no_cycle() -> None:
    """Inside a package too they can be ordered so that each imports only those before it, lazily or not."""

    def home_of(name: str) -> str:
        return name if name in FILES else name.rpartition(".")[0]

    graph = {module: {home_of(name) for name in imports(module) if is_ours(name)} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_make_runs_every_engine_test() -> None:
    """The Makefile names where they are: in tests/actors and beside this file."""
    marked = [file.relative_to(ROOT / "tests") for file in SOURCES if "pytest.mark.engine" in file.read_text()]
    assert {file.parts[0] for file in marked if len(file.parts) > 1} == {"actors"}
    named = re.search(r"^ENGINE_TESTS := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    beside = {f"tests/{file}" for file in marked if len(file.parts) == 1} - {"tests/test_layers.py"}
    assert named is not None
    assert set(named[1].split()) == beside | {"tests/actors"}


@pytest.mark.parametrize("package", [module for module, file in FILES.items() if file.name == "__init__.py"])
def test_a_package_says_what_it_is_for(package: str) -> None:
    """`__init__.py` holds a docstring and nothing else; that of `rewards` also the names a reward term needs."""
    tree = parsed(FILES[package])
    assert ast.get_docstring(tree)
    assert package == "rewards" or len(tree.body) == 1


@pytest.mark.parametrize("module", modules_in("rewards"))
def test_rewards_are_pure(module: str) -> None:
    """Rewards are functions of arrays: no heavy library, no files."""
    assert not libraries(module) & (CLUSTER_LIBRARIES | MODEL_LIBRARIES | FILE_MODULES)
    calls = [node.func for node in ast.walk(parsed(FILES[module])) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "open"]


@pytest.mark.parametrize("module", modules_in("rex_rl"))
def test_heavy_libraries_stay_at_the_edges(module: str) -> None:
    """Ray, vLLM and DeepSpeed belong to the actors; torch to model code, so that loops and data run without it."""
    assert not libraries(module) & CLUSTER_LIBRARIES
    assert module in TORCH_MODULES or not libraries(module) & MODEL_LIBRARIES


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_short(file: Path) -> None:
    """A file of at most 400 lines fits in the head, a function of at most 60 on a screen."""
    assert len(file.read_text().splitlines()) <= MAX_FILE_LINES
    functions = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{file.relative_to(ROOT)}::{node.name}": node.end_lineno - node.lineno + 1 for node in functions}
    assert {name for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} <= LONG_FUNCTIONS.keys()


def test_folders_stay_small() -> None:
    """A room holds at most 12 files besides `__init__.py`."""
    folders = [file.parent.relative_to(ROOT) for file in SOURCES if file.name != "__init__.py"]
    assert {folder: folders.count(folder) for folder in folders if folders.count(folder) > MAX_FOLDER_FILES} == {}


def test_the_grpo_loop_stays_a_table_of_contents() -> None:
    """`grpo.py::train` has at most 60 lines and 8 ifs, conditional expressions and filters included."""
    tree = parsed(FILES["rex_rl.grpo"])
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
