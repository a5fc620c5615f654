"""The READMEs are real: their commands run, every key, option and target they give exists, and so does every file."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from rex_rl.cli.main import app

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "tests" / "fixtures" / "photos"
READMES = [ROOT / folder / "README.md" for folder in ("", "configs", "actors", "rewards", "rex_rl/bench")]
TEXTS = {file: file.read_text() for file in READMES}
BLOCKS = re.findall(r"```bash\n(.*?)```", "".join(TEXTS.values()), flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = sorted({line.split("rex-rl ", 1)[1].split("  #")[0].strip() for line in LINES if "rex-rl " in line})
TARGETS = set(re.findall(r"^make (\w+)", "\n".join(LINES), flags=re.MULTILINE))

ELSEWHERE = {
    "predict": "tests/test_end_to_end.py",
    "compare": "tests/test_end_to_end.py",
    "status": "tests/test_faults.py",
    "scale": "tests/test_faults.py",
    "bench": "tests/actors/bench/test_sync.py",
    "control": "tests/rex_rl/evaluation/test_comparison.py",
    "credits": "tests/rex_rl/evaluation/test_credit_trials.py",
}
"""Commands that need a model, a finished run or a running one -> the test that has it, or tries their own logic."""


def name_of(command: str) -> list[str]:
    """The words that name a command."""
    words = shlex.split(command)
    return words[:2] if words[0] == "data" else words[:1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    """`--help` of the named command exits 0, and every option that a README gives it is listed there."""
    done = CliRunner().invoke(app, [*name_of(command), "--help"])
    assert done.exit_code == 0, done.output
    options = [word for word in shlex.split(command) if word.startswith("--")]
    assert all(option in done.stdout for option in options)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's configurations beside a user's photographs, records and answers, under the READMEs' names."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(PHOTOS, folder / "photos")
    shutil.copy(PHOTOS / "instances.json", folder)
    Image.new("RGB", (10, 10)).save(folder / "x.png")
    record = {"id": "1", "image": "x.png", "categories": ["cat"], "objects": [{"label": "cat", "bbox": [1, 1, 9, 9]}]}
    (folder / "records.jsonl").write_text(json.dumps(record | {"width": 10, "height": 10}))
    (folder / "answers.jsonl").write_text(json.dumps({"id": "1", "answer": "nothing"}))
    return folder


@pytest.mark.parametrize("command", [command for command in COMMANDS if name_of(command)[0] not in ELSEWHERE])
def test_every_command_runs(command: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in the README, with exit status 0; `train` up to its plan of actors."""
    monkeypatch.chdir(workspace)
    plan_only = ["--dry-run"] if command.startswith("train") and "--dry-run" not in command else []
    done = CliRunner().invoke(app, [*shlex.split(command), *plan_only])
    assert done.exit_code == 0, done.output
    assert done.stdout


def test_the_other_commands_have_tests_of_their_own() -> None:
    assert {name_of(command)[0] for command in COMMANDS} >= ELSEWHERE.keys()
    assert all(name in (ROOT / file).read_text() for name, file in ELSEWHERE.items())


def test_overrides_in_the_readmes_are_keys() -> None:
    from rex_rl.config.load import config_reference

    keys = {doc.key for doc in config_reference()}
    given = {word.split("=")[0] for command in COMMANDS for word in shlex.split(command) if "=" in word}
    assert given <= keys
    named = {key for text in TEXTS.values() for key in re.findall(r"`((?:\w+\.)+\w+)(?:=[^`]*)?`", text)}
    sections = {key.partition(".")[0] for key in keys}
    mentioned = {key for key in named if key.partition(".")[0] in sections and not key.endswith(".py")}
    assert {key for key in mentioned if not any(other == key or other.startswith(f"{key}.") for other in keys)} == set()


def test_make_targets_exist(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    assert TARGETS
    assert all(f"\n{target}:" in makefile for target in TARGETS)


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_that_is_named_exists(readme: Path) -> None:
    """Links from where they stand; paths in backticks from the repository, from beside the README, or its package."""
    text = TEXTS[readme]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (readme.parent / link).is_file()] == []
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|yaml|md|toml|png))`", text)
    places = [ROOT, readme.parent, ROOT / "configs", ROOT / "rex_rl", *(ROOT / "rex_rl").iterdir()]
    made_by_runs = {"config.yaml"}
    assert [name for name in named if name not in made_by_runs and not any((at / name).exists() for at in places)] == []


def test_the_front_door_is_short_and_names_every_package() -> None:
    """At most 150 lines, with a row for each package."""
    front = TEXTS[ROOT / "README.md"]
    assert len(front.splitlines()) <= 150
    packages = [file.parent for file in (ROOT / "rex_rl").glob("*/__init__.py")]
    assert all(f"{package.name}/`" in front for package in packages)
