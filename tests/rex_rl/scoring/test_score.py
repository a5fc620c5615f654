"""Offline scoring: the reward of each answer, the order of the lines, and the errors for a user's mistakes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rex_rl.data.records import read_records
from rex_rl.errors import UserError
from rex_rl.language.codec import encode_answer
from rex_rl.language.tasks import TASKS, Geometry
from rex_rl.scoring.score import score_files

CAT = {"label": "cat", "bbox": [100, 100, 300, 300]}
DOG = {"label": "dog", "bbox": [500, 500, 700, 900]}
FIELDS = ["id", "total", "terms", "faults", "num_predicted", "num_true", "num_duplicates"]


def record(id: str = "a", *objects: dict[str, Any], **facts: object) -> dict[str, Any]:
    """A record of which a pixel is a bin, so that answers can be written down; its image does not exist."""
    things = objects or (CAT,)
    labels = list(dict.fromkeys(thing["label"] for thing in things))
    size = {"width": 999, "height": 999}
    return {"id": id, "image": "no.png", **size, "categories": labels, "objects": list(things), **facts}


def segment(label: str, *shapes: list[int]) -> str:
    body = ",".join("".join(f"<{value}>" for value in shape) for shape in shapes) or "None"
    return f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>{body}<|box_end|>"


def true_answer(*objects: dict[str, Any]) -> str:
    return ", ".join(segment(thing["label"], thing["bbox"]) for thing in objects)


def write(file: Path, *lines: object) -> Path:
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "R.jsonl", tmp_path / "A.jsonl"


def scored(files: tuple[Path, Path], records: list[object], answers: list[object], **options: Any) -> list[Any]:
    """The lines for some records and (id, text) pairs, or for lines of answers as they are."""
    lines = [{"id": line[0], "answer": line[1]} if isinstance(line, tuple) else line for line in answers]
    return list(score_files(write(files[0], *records), write(files[1], *lines), **options).lines)


def refusal(files: tuple[Path, Path], records: list[object], answers: list[object], **options: Any) -> str:
    with pytest.raises(UserError) as error:
        scored(files, records, answers, **options)
    assert error.value.exit_status == 2
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{files[0].parent}/", "")


# Crowds, by the command line.

PEOPLE = [[100, 100, 200, 300], [115, 100, 215, 300]]
"""IoU 0.74."""
ROW = [[100 + 5 * i, 100] for i in range(10)]
NESTED = [[100, 100, 500, 500], [110, 110, 490, 490], [120, 120, 480, 480], [300, 300, 400, 400]]


@pytest.mark.parametrize(
    ("task", "true", "answer", "total", "num_duplicates"),
    [
        ("detection", PEOPLE, PEOPLE, 1.0, 0),
        ("detection", PEOPLE, PEOPLE[:1], 2 / 3, 0),
        ("detection", PEOPLE, [*PEOPLE, PEOPLE[0]], 4 / 5 - 0.5 / 2 - 0.25 / 2, 1),
        ("pointing", ROW, ROW, 1.0, 0),
        ("pointing", ROW, ROW[:1], 2 / 11, 0),
        ("pointing", ROW, [*ROW, ROW[4]], 20 / 21 - 0.5 / 10 - 0.25 / 10, 1),
        ("detection", NESTED, NESTED, 1.0, 0),
        ("detection", NESTED, NESTED[1:], 6 / 7, 0),
        ("detection", [PEOPLE[0]] * 3, PEOPLE[:1], 1.0, 0),
        ("detection", [PEOPLE[0]] * 3, [PEOPLE[0]] * 3, 2 / 4 - 0.5 - 0.25, 2),
    ],
)
def test_a_perfect_answer_earns_all_in_a_crowd(
    files: tuple[Path, Path],
    rex: Callable[..., tuple[int, str, str]],
    task: str,
    true: list[list[int]],
    answer: list[list[int]],
    total: float,
    num_duplicates: int,
) -> None:
    """Two people close together, ten points in a row each in a box of its own, nested boxes, one thing annotated three
    times: the truth earns 1, less of it less, a copy of a part of it less."""
    things: list[dict[str, Any]] = [{"label": "cat", "bbox": shape} for shape in true]
    if task == "pointing":
        things = [{"label": "cat", "point": [x, y], "bbox": [x - 9, y - 9, x + 9, y + 9]} for x, y in true]
    write(files[0], record("a", *things))
    write(files[1], {"id": "a", "answer": segment("cat", *answer)})
    code, out, err = rex("score", "--records", files[0], "--answers", files[1], "--task", task)
    assert code == 0, err
    line = json.loads(out)
    assert line["total"] == pytest.approx(total, abs=1e-9)
    assert line["num_duplicates"] == num_duplicates


# The reward of an answer.


def test_a_line_gives_the_reward_of_an_answer_and_its_terms(files: tuple[Path, Path]) -> None:
    """Two right boxes, one of them predicted twice, and one of a label nobody asked for."""
    text = f"{segment('cat', CAT['bbox'], CAT['bbox'])}, {segment('dog', DOG['bbox'])}, {segment('owl', [0, 0, 9, 9])}"
    (line,) = scored(files, [record("a", CAT, DOG)], [("a", text)])
    assert list(line) == FIELDS
    assert (line["id"], line["faults"]) == ("a", ["unknown_label"])
    assert (line["num_predicted"], line["num_true"], line["num_duplicates"]) == (4, 2, 1)
    terms = line["terms"]
    assert (terms["f1"], terms["duplicates"], terms["surplus"]) == (pytest.approx(4 / 6), 0.5, 1.0)
    assert line["total"] == pytest.approx(4 / 6 - 0.5 * 0.5 - 0.25 * 1.0 - 0.25 * 1.0)


@pytest.mark.parametrize(
    ("reward", "totals"),
    [
        ("matched", [1.0, 2 / 3 - 0.75, 2 / 6 - 0.75]),
        ("paper", [1.0, 2 / 3, 2 / 6]),  # 2 / (1 + m): arXiv 2510.12798, section 4.2.3
        ("official", [1.0, 1.0, 1.0]),  # reward_func.py: precision is the mean of best IoUs
    ],
)
def test_a_right_box_once_twice_and_five_times(files: tuple[Path, Path], reward: str, totals: list[float]) -> None:
    """Each reward by its name; that of `paper` and `official` is their formula alone."""
    answers = [("a", segment("cat", *[CAT["bbox"]] * count)) for count in (1, 2, 5)]
    lines = scored(files, [record()], answers, reward=reward)
    assert [line["total"] for line in lines] == pytest.approx(totals, abs=1e-6)
    assert [line["num_duplicates"] for line in lines] == [0, 1, 4]


def test_lines_keep_the_order_of_the_answers_and_an_id_may_come_twice(files: tuple[Path, Path]) -> None:
    """Ids come back as they were written, whole numbers too; records nobody answered are only counted."""
    records = [record("7", CAT), record("b", DOG), record("c", CAT)]
    answers = [("b", true_answer(DOG)), {"id": 7, "answer": ""}, ("b", ""), ("7", true_answer(CAT))]
    lines = scored(files, records, answers)
    assert [(line["id"], line["total"] == 1.0) for line in lines] == [
        ("b", True),
        (7, False),
        ("b", False),
        ("7", True),
    ]
    summary = score_files(*files).summary
    assert summary.startswith("mean of 4 answers under matched: total 0.5, ")
    assert summary.endswith("; 1 of 3 records have no answer")


def test_none_for_an_absent_category_earns_the_maximum_and_an_empty_answer_less(files: tuple[Path, Path]) -> None:
    records = [record("n", objects=[], categories=["cat"])]
    lines = scored(files, records, [("n", segment("cat")), ("n", ""), ("n", "no cat here")])
    assert lines[0]["total"] == 1.0
    assert max(lines[1]["total"], lines[2]["total"]) < 1.0
    assert [line["num_true"] for line in lines] == [0, 0, 0]


@pytest.mark.parametrize(
    "label",
    [
        "café",
        "cafe\u0301",
        "tv/monitor",
        "traffic_light",
        "中文 标签",
        "птица",
        "😀",
        'a "b", (c) < d',
        "None",
        "Ω\u2009x",
    ],
)
def test_any_label_survives_the_shipped_tokenizer(files: tuple[Path, Path], label: str) -> None:
    """It has a token for every byte, so labels it never saw are read exactly."""
    thing = CAT | {"label": label}
    (line,) = scored(files, [record("a", thing)], [("a", true_answer(thing))])
    assert (line["total"], line["faults"]) == (1.0, [])


def test_an_answer_of_the_released_models_style(files: tuple[Path, Path]) -> None:
    """Spaces between special tokens, a space before the comma, the end token behind (reference: issue 122)."""
    text = (
        " <|object_ref_start|> cat <|object_ref_end|> <|box_start|> <100> <100> <300> <300> <|box_end|> , "
        "<|object_ref_start|> dog <|object_ref_end|> <|box_start|> <500> <500> <700> <900> <|box_end|> <|im_end|>"
    )
    (line,) = scored(files, [record("a", CAT, DOG)], [("a", text)])
    assert line["total"] == 1.0


def test_every_record_is_scored_by_its_own_task(files: tuple[Path, Path]) -> None:
    """One file may hold several tasks; a record that names none is one of detection."""
    pointed = record("p", {"label": "cat", "point": [100, 200]}, task="pointing")
    answers = [("p", segment("cat", [100, 200])), ("a", true_answer(CAT)), ("p", segment("cat", [500, 500]))]
    lines = scored(files, [record(), pointed], answers)
    assert [line["total"] for line in lines] == [1.0, 1.0, 0.0]


def test_the_true_answer_to_every_task_earns_the_maximum(files: tuple[Path, Path]) -> None:
    """All tasks in one file, each with an object of its geometry; the empty answer earns less in each."""
    things = {
        Geometry.BOX: CAT,
        Geometry.POINT: {"label": "cat", "point": [100, 200]},
        Geometry.POLYGON: {"label": "cat", "polygon": [[10, 10], [90, 12], [60, 80]]},
    }
    records = []
    for name, task in TASKS.items():
        seen = {point: None if i else [150, 160] for i, point in enumerate(task.keypoints)}
        facts: dict[str, Any] = {"task": name}
        if task.takes_examples:
            facts["visual_prompt"] = [[100, 100, 300, 300]]
        if task.choices:
            facts["categories"] = [task.choices[0]]
        records.append(record(name, things.get(task.geometry, CAT | {"keypoints": seen}), **facts))
    read = read_records(write(files[0], *records), task=None, max_bad_fraction=0, check_images=False).records
    right = scored(files, records, [(one.id, encode_answer(one, one.categories)) for one in read])
    assert {line["id"]: (line["total"], line["faults"]) for line in right} == {name: (1.0, []) for name in TASKS}
    silent = scored(files, records, [(name, "") for name in TASKS])
    assert max(line["total"] for line in silent) < 1.0


def test_the_image_is_asked_for_its_size_only_where_the_record_is_silent(files: tuple[Path, Path]) -> None:
    silent = {key: value for key, value in record().items() if key not in ("width", "height")}
    assert refusal(files, [silent], [("a", "")]).startswith("R.jsonl:1: image: no such file")


# A user's mistakes.


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["{'id': 'a'}"], "A.jsonl:1: json: Expecting property name enclosed in double quotes at column 2"),
        ([("a", ""), "[1]"], "A.jsonl:2: json: a list, not an object"),
        ([("a", ""), "", {"answer": ""}], "A.jsonl:3: id: missing"),
        ([{"id": "a"}], "A.jsonl:1: answer: missing"),
        ([{"id": "a", "answer": None}], "A.jsonl:1: answer: None is not text"),
        ([{"id": True, "answer": ""}], "A.jsonl:1: id: True is not a text or a whole number"),
        ([("z", "")], "A.jsonl:1: id: 'z' is in no record of R.jsonl"),
        ([("a", "\ud800")], "A.jsonl:1: answer: not valid Unicode at character 0"),
        ([], "A.jsonl: empty, no answer in it"),
    ],
)
def test_a_wrong_answer_line_is_named(files: tuple[Path, Path], answers: list[object], expected: str) -> None:
    assert refusal(files, [record()], answers) == expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(), record()], "R.jsonl:2: id: 'a' stands already in line 1"),
        ([record(), "{"], "R.jsonl:2: json: "),
        ([record(), record("b", CAT | {"bbox": [30, 0, 12, 9]})], "R.jsonl:2: bbox: x1 12 <= x0 30"),
        ([record(), record("b", task="walking")], "walking"),
    ],
)
def test_a_wrong_record_is_named(files: tuple[Path, Path], records: list[object], expected: str) -> None:
    """Unlike in training none is skipped: its answers could not be scored."""
    message = refusal(files, records, [("a", "")])
    assert message.startswith("R.jsonl:2: ")
    assert expected in message


def test_unknown_names_and_missing_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    good: list[list[Any]] = [[record()], [("a", "")]]
    assert refusal(files, *good, reward="iou").startswith("--reward = iou: should be one of matched, paper, official")
    assert refusal(files, *good, task="walking").startswith("--task = walking: should be one of detection, ")
    assert "no tokenizer.json" in refusal(files, *good, model=tmp_path / "no")
    for missing in files:
        scored(files, *good)
        missing.unlink()
        with pytest.raises(UserError, match=rf"{missing.name}: [Nn]o such file"):
            score_files(*files)


# The process.


def test_scoring_starts_within_two_seconds_and_without_heavy_libraries(files: tuple[Path, Path], root: Path) -> None:
    """Processor time, which on an idle machine is the time one waits; a loaded one has three tries."""
    write(files[0], record())
    write(files[1], {"id": "a", "answer": true_answer(CAT)})
    script = f"""
import sys
sys.argv = ["rex-rl", "score", "--records", {str(files[0])!r}, "--answers", {str(files[1])!r}]
from rex_rl.cli.main import main
try:
    main()
finally:
    heavy = {{"torch", "ray", "vllm", "transformers", "deepspeed", "wandb"}} & set(sys.modules)
    print("heavy:", sorted(heavy), file=sys.stderr)
"""

    def seconds() -> float:
        before = os.times()
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
        after = os.times()
        assert (done.returncode, json.loads(done.stdout)["total"]) == (0, 1.0)
        assert done.stderr.splitlines()[-1] == "heavy: []"
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert any(seconds() < 2.0 for _ in range(3))
