"""The command line: its exit statuses, its one-line errors, and standard output that is JSON and nothing else.

Commands that need a cluster are tested with stand-ins that have the launcher's signatures.
"""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import numpy as np
import pytest
import yaml
from PIL import Image

from rex_rl import launch
from rex_rl.cli import main as cli
from rex_rl.config.load import config_reference, load_config
from rex_rl.errors import ConfigError, RolloutError, Stopped
from rex_rl.report import run_report
from rex_rl.report.prediction import Prediction, question_about
from rex_rl.types import Shapes
from tests.rex_rl.conftest import Rex

CONFIG = """
name: small
model: {path: tiny}
data: {train: shapes}
"""
SAID = {
    "image": "x.png",
    "width": 100,
    "height": 50,
    "task": "detection",
    "objects": [{"label": "red circle", "bbox": [10.01, 5.01, 40.04, 29.98]}],
    "absent": ["blue square"],
    "faults": [],
}
SHAPES = Shapes(
    labels=("red circle",),
    bins_NK=np.array([[100, 100, 400, 599]]),
    spans_N2=np.array([[0, 5]]),
    faults=("truncated",),
    absent=("blue square",),
)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], MagicMock]:
    """Replaces a launcher's function by a stand-in of the same signature."""

    def put(name: str, answer: Any) -> MagicMock:
        fails = isinstance(answer, Exception)
        fake = create_autospec(getattr(launch, name), **{"side_effect" if fails else "return_value": answer})
        monkeypatch.setattr(launch, name, fake)
        return fake

    return put


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "x.png"
    Image.new("RGB", (100, 50), "grey").save(file)
    return file


def process(*words: object, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rex_rl", *map(str, words)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)


def with_launcher(code: str, *words: str, root: Path, **options: Any) -> subprocess.Popen[str]:
    """A process in which `code` replaces parts of rex_rl.launch, and then a command line runs."""
    script = f"""
import sys, types
launch = sys.modules["rex_rl.launch"] = types.ModuleType("rex_rl.launch")
exec({textwrap.dedent(code)!r}, vars(launch))
sys.argv = ["rex-rl", *{words!r}]
from rex_rl.cli.main import main
main()
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script], cwd=root, **pipes, **options)


# The process: status, streams, errors.


def test_a_users_mistake_is_one_line_and_status_2(root: Path) -> None:
    done = process("train", "configs/quickstart.yaml", "grpo.num_step=3", root=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rex-rl: error: configs/quickstart.yaml, override: unknown key grpo.num_step; did you mean grpo.num_steps?\n"
    )


def test_a_wrong_use_of_the_command_line_is_status_2(rex: Rex) -> None:
    status, out, err = rex("predict", "--image", "x.png")
    assert (status, out) == (2, "")
    assert "Missing option" in err


def test_an_unexpected_error_keeps_its_traceback_and_is_status_1(root: Path) -> None:
    code = """
    def train(config, accept_changes):
        raise ZeroDivisionError("a bug")
    """
    run = with_launcher(code, "train", "configs/quickstart.yaml", root=root)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith("ZeroDivisionError: a bug\n")


def test_an_interrupt_is_status_130(root: Path) -> None:
    code = """
    import signal, time

    def train(config, accept_changes):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs start without
        print("started", flush=True)
        time.sleep(60)
    """
    run = with_launcher(code, "train", "configs/quickstart.yaml", root=root)
    assert run.stdout is not None
    assert run.stdout.readline() == "started\n"
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in err


def test_standard_output_is_the_json_alone_whatever_libraries_print(root: Path, photo: Path) -> None:
    """Output of Python, a child process, compiled code and exit handlers all goes to standard error."""
    code = f"""
    import atexit, os, subprocess, types

    def predict(model, question, max_answer_tokens):
        print("INFO: engine started")
        os.write(1, b"from compiled code\\n")
        subprocess.run(["echo", "from a worker"], check=True)
        atexit.register(lambda: os.write(1, b"last words\\n"))
        return types.SimpleNamespace(as_json=lambda: {SAID!r})
    """
    words = ("predict", "--model", "m", "--image", str(photo), "--categories", "red circle")
    run = with_launcher(code, *words, root=root)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert json.loads(out) == SAID
    for noise in ("engine started", "from compiled code", "from a worker", "last words"):
        assert noise in err


def test_help_of_every_command_says_what_it_takes(rex: Rex) -> None:
    for words in ((), ("train",), ("config",), ("eval",), ("predict",), ("score",), ("report",), ("data", "check")):
        status, out, _ = rex(*words, "--help")
        assert status == 0
        assert out.startswith("Usage: rex-rl")


# Errors of the project.


def test_a_run_that_cannot_go_on_is_one_line_and_status_1(
    rex: Rex, config: Path, stand_in: Callable[[str, Any], MagicMock]
) -> None:
    stand_in("train", RolloutError("12 of 64 groups failed:\n  no answer"))
    assert rex("train", config) == (1, "", "rex-rl: error: 12 of 64 groups failed: no answer\n")


def test_an_actors_error_is_shown_without_its_traceback(
    rex: Rex, config: Path, stand_in: Callable[[str, Any], MagicMock]
) -> None:
    """Ray raises a class derived from the actor's error, with the traceback as text and the error as `cause`."""

    class FromRay(ConfigError):
        cause = ConfigError("model.path = x: is not a folder")

    stand_in("train", FromRay("Traceback of the actor ..\n  line\n  line"))
    assert rex("train", config) == (2, "", "rex-rl: error: model.path = x: is not a folder\n")


@pytest.mark.parametrize("word", ["--grpo.num_steps=3", "--dryrun", "-n"])
@pytest.mark.parametrize("command", [("train",), ("eval", "--model", "m")])
def test_an_override_that_looks_like_an_option_is_refused(
    rex: Rex, config: Path, command: tuple[str, ...], word: str
) -> None:
    status, out, err = rex(*command, config, word)
    assert (status, out) == (2, "")
    assert err.startswith(f"rex-rl: error: {word}: no such option; ")
    assert "grpo.num_steps=10" in err


def test_a_run_that_was_asked_to_end_says_from_where_it_goes_on(
    rex: Rex, stand_in: Callable[[str, Any], MagicMock], config: Path
) -> None:
    """In one line, which is not an error, with the status of a process that SIGTERM ended."""
    stand_in("train", Stopped("ended in order by SIGTERM; submit the same command again"))
    assert rex("train", config) == (143, "", "rex-rl: ended in order by SIGTERM; submit the same command again\n")


# train


def test_train_passes_the_checked_configuration_on(
    rex: Rex, config: Path, tmp_path: Path, stand_in: Callable[[str, Any], MagicMock]
) -> None:
    train = stand_in("train", tmp_path / "runs" / "small")
    assert rex("train", config, "grpo.num_steps=3", "stages=[grpo]") == (0, f"{tmp_path}/runs/small\n", "")
    train.assert_called_once_with(load_config(config, ["grpo.num_steps=3", "stages=[grpo]"]), accept_changes=False)
    rex("train", config, "--accept-changes")
    train.assert_called_with(load_config(config), accept_changes=True)


def test_a_dry_run_starts_nothing_and_prints_yaml_with_the_plan(
    rex: Rex, config: Path, tmp_path: Path, stand_in: Callable[[str, Any], MagicMock]
) -> None:
    """The output can be saved and trained from: it loads as the same configuration."""
    train = stand_in("train", None)
    stand_in("describe_plan", "1 x learner: 1 CPU\n2 x rollout: 1 CPU")
    status, out, err = rex("train", config, "--dry-run", "grpo.num_steps=3")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["# 1 x learner: 1 CPU", "# 2 x rollout: 1 CPU"]
    assert yaml.safe_load(out)["grpo"]["num_steps"] == 3
    (tmp_path / "printed.yaml").write_text(out)
    assert load_config(tmp_path / "printed.yaml") == load_config(config, ["grpo.num_steps=3"])
    train.assert_not_called()


# config


def test_config_prints_every_key_three_ways(
    rex: Rex, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines in a pipe, JSON on request, a table at 100 columns or more; none of them reads brackets as markup."""
    docs = config_reference()
    status, lines, _ = rex("config")
    assert status == 0
    _, as_json, _ = rex("config", "--json")
    assert [entry["key"] for entry in json.loads(as_json)] == [doc.key for doc in docs]
    assert set(json.loads(as_json)[0]) == {"key", "type", "default", "bounds", "meaning"}
    monkeypatch.setenv("COLUMNS", "100")
    cli._print_key_table(docs)
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 100
    for doc in docs:
        assert f"{doc.key}: {doc.type} = {doc.default}" in lines
        assert doc.key in table
    assert "[sft, grpo]" in lines
    assert "[sft," in table


# predict, eval, report


def test_predict_prints_and_draws(
    rex: Rex, photo: Path, tmp_path: Path, stand_in: Callable[[str, Any], MagicMock]
) -> None:
    question = question_about(photo, task="detection", categories=("red circle", "blue square"))
    predict = stand_in("predict", Prediction(record=question, shapes=SHAPES))
    drawn = tmp_path / "y.png"
    words = ("--categories", " red circle, blue square,,red circle ", "--out", drawn, "--max-answer-tokens", 64)
    status, out, err = rex("predict", "--model", tmp_path, "--image", photo, *words)
    assert (status, err) == (0, "")
    assert json.loads(out) == SAID | {"image": str(photo), "faults": ["truncated"]}
    predict.assert_called_once_with(tmp_path, question, 64)
    with Image.open(drawn) as image:
        assert len(image.getcolors(2**24)) > 1  # the photo has one colour


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--categories", " , "), "--categories: names nothing to look for"),
        (("--categories", "cat", "--task", "walk"), "--task = walk: should be one of detection, "),
        (("--categories", "cat, dog", "--task", "gui_pointing"), "--categories = cat, dog: gui_pointing asks for one"),
        (("--categories", "sign", "--task", "ocr_box"), "--categories = sign: 'sign' is not one of word, text line"),
        (("--categories", "cat", "--task", "visual_prompting"), "--visual-prompt: needs at least one box"),
        (("--categories", "cat", "--visual-prompt", "0,0,9,9"), "--visual-prompt: is not what detection asks by"),
        (
            ("--categories", "cat", "--task", "visual_prompting", "--visual-prompt", "0,0,9"),
            "--visual-prompt = 0,0,9: [0.0, 0.0, 9.0] is not [x0, y0, x1, y1]",
        ),
        (
            ("--categories", "cat", "--task", "visual_prompting", "--visual-prompt", "0,0,900,9"),
            "--visual-prompt = 0,0,900,9: [0.0, 0.0, 900.0, 9.0] reaches more than",
        ),
        (
            ("--categories", "cat", "--task", "visual_prompting", "--visual-prompt", "0,0,9,nan"),
            "--visual-prompt = 0,0,9,nan: nan is not a finite number",
        ),
        (
            ("--categories", "cat", "--task", "visual_prompting", "--visual-prompt", "0,0,9,x"),
            "--visual-prompt = 0,0,9,x: should be x0,y0,x1,y1 in pixels",
        ),
        (("--categories", "a<|im_end|>"), "--categories = a<|im_end|>: 'a<|im_end|>' holds the special token"),
        (("--categories", "cat", "--out", "y.txt"), "--out = y.txt: should end in one of .png"),
        (("--categories", "cat", "--out", "no/where/y.png"), "--out = no/where/y.png: no such folder"),
    ],
)
def test_predict_refuses_before_an_engine_starts(
    rex: Rex, photo: Path, stand_in: Callable[[str, Any], MagicMock], words: tuple[str, ...], message: str
) -> None:
    predict = stand_in("predict", SAID)
    status, out, err = rex("predict", "--model", "m", "--image", photo, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"rex-rl: error: {message}")
    assert len(err.splitlines()) == 1
    predict.assert_not_called()


def test_eval_prints_json_or_a_table(
    rex: Rex, config: Path, tmp_path: Path, stand_in: Callable[[str, Any], MagicMock]
) -> None:
    figures = {"f1_50": 0.61234, "num_images": 200}
    evaluate = stand_in("evaluate_model", figures)
    status, out, _ = rex("eval", config, "--model", tmp_path, "evaluation.num_images=200", "--json")
    assert (status, json.loads(out)) == (0, figures)
    evaluate.assert_called_once_with(load_config(config, ["evaluation.num_images=200"]), tmp_path)
    status, out, _ = rex("eval", config, "--model", tmp_path)
    assert status == 0
    assert "0.6123" in out
    assert "num_images" in out


def test_report_writes_and_says_where(rex: Rex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = create_autospec(run_report.write_run_report, return_value=tmp_path / "report.html")
    monkeypatch.setattr(run_report, "write_run_report", write)
    assert rex("report", tmp_path) == (0, f"{tmp_path}/report.html\n", "")
    write.assert_called_once_with(tmp_path)
    assert rex("report", tmp_path / "no") == (2, "", f"rex-rl: error: {tmp_path}/no: no such run folder\n")


# score


def test_score_prints_a_line_an_answer_and_the_means_beside(rex: Rex, tmp_path: Path) -> None:
    """Standard output is JSON alone, in the order of the answers; the means are on standard error."""
    records, answers = tmp_path / "R.jsonl", tmp_path / "A.jsonl"
    record = {"image": "no.png", "width": 999, "height": 999, "categories": ["café"], "objects": []}
    records.write_text("".join(json.dumps(record | {"id": id}) + "\n" for id in ("a", "b", "c")))
    none = "<|object_ref_start|>café<|object_ref_end|><|box_start|>None<|box_end|>"
    answers.write_text("".join(json.dumps({"id": id, "answer": none if id == "b" else ""}) + "\n" for id in ("b", "a")))
    status, out, err = rex("score", "--records", records, "--answers", answers)
    assert status == 0
    assert [(line["id"], line["total"]) for line in map(json.loads, out.splitlines())] == [("b", 1.0), ("a", 0.75)]
    assert len(err.splitlines()) == 1
    assert err.startswith("mean of 2 answers under matched: total 0.875, f1 1, ")
    assert err.endswith("1 of 3 records have no answer\n")
    assert rex("score", "--records", records, "--answers", answers, "--reward", "iou") == (
        2,
        "",
        "rex-rl: error: --reward = iou: should be one of matched, paper, official\n",
    )
    answers.write_text('{"id": "z", "answer": ""}\n')
    assert rex("score", "--records", records, "--answers", answers)[:2] == (2, "")
