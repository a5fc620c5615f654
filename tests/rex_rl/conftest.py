"""The command line in this process."""

import sys
from collections.abc import Callable

import pytest

from rex_rl.cli import main as cli

Rex = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rex(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rex:
    """Runs a command line in this process: (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rex-rl", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run
