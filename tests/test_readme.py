"""The README is real: each `rex-rl` line in it parses, each key and option it gives exists, and so does each file."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rex_rl.cli import app

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", README.read_text(), flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line.split("rex-rl ", 1)[1].split("  #")[0] for line in LINES if "rex-rl " in line]
TARGETS = re.findall(r"^make (\w+)", "\n".join(LINES), flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    """`--help` of the named command exits 0, and every option the README gives it is listed there."""
    words = shlex.split(command)
    name = words[:2] if words[0] == "data" else words[:1]
    done = CliRunner().invoke(app, [*name, "--help"])
    assert done.exit_code == 0, done.output
    options = [word for word in words if word.startswith("--")]
    assert all(option in done.stdout for option in options)


def test_overrides_in_the_readme_are_keys() -> None:
    from rex_rl.config import config_reference

    keys = {doc.key for doc in config_reference()}
    given = {word.split("=")[0] for command in COMMANDS for word in shlex.split(command) if "=" in word}
    assert given <= keys


def test_make_targets_exist(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    assert TARGETS
    assert all(f"\n{target}:" in makefile for target in TARGETS)


def test_the_file_tree_is_complete(root: Path) -> None:
    """Every module stands in the README's tree, and nothing that is not there."""
    tree = README.read_text().split("## Files")[1].split("```")[1]
    named = set(re.findall(r"[a-z0-9_]+\.(?:py|yaml)", tree))
    there = {file.name for package in ("rex_rl", "actors") for file in (root / package).glob("*.py")}
    there -= {"__init__.py", "__main__.py"}
    assert there <= named, sorted(there - named)
    assert named <= there | {file.name for file in (root / "configs").iterdir()}
