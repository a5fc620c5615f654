"""The checks of single fields, through the reader: every wrong value is named by field and reason, and skipped."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rex_rl.errors import DataError
from rex_rl.record_checks import text
from rex_rl.records import RecordSet, check_report, read_records

GOOD: dict[str, Any] = {
    "id": "000042",
    "image": "images/42.jpg",
    "width": 640,
    "height": 480,
    "task": "detection",
    "categories": ["cat", "dog"],
    "objects": [{"label": "cat", "bbox": [12.0, 30.5, 99.0, 140.0]}],
}


def write(folder: Path, *lines: object, name: str = "train.jsonl") -> Path:
    """A record file; a line that is not text is written as JSON."""
    file = folder / name
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def read(file: Path, **options: Any) -> RecordSet:
    """Read without looking at images, tolerating any share of bad records, unless told otherwise."""
    return read_records(file, **({"check_images": False, "max_bad_fraction": 1.0} | options))


def boxed(*bbox: object) -> list[dict[str, object]]:
    return [{"label": "cat", "bbox": list(bbox)}]


def only_bad(tmp_path: Path, fields: dict[str, Any], **options: Any) -> str:
    """`field: reason` of the one bad record in the third line, after two good ones."""
    file = write(tmp_path, GOOD | {"id": "a"}, GOOD | {"id": "b"}, fields)
    found = read(file, **options)
    assert [record.id for record in found.records] == ["a", "b"]
    assert found.num_read == 3
    (bad,) = found.bad
    assert (bad.file, bad.line) == (str(file), 3)
    assert bad.text == f"{file}:3: {bad.field}: {bad.reason}"
    assert "\n" not in bad.text
    return f"{bad.field}: {bad.reason}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": None}, "id: missing"),
        ({"id": " "}, "id: empty"),
        ({"id": 1.5}, "id: 1.5 is not text"),
        ({"id": "a"}, "id: 'a' stands already in line 1"),
        ({"task": 3}, "task: 3 is not text"),
        ({"image": None}, "image: missing"),
        ({"image": 5}, "image: 5 is not text"),
        ({"image": "../x.jpg"}, "image: '../x.jpg' lies outside the images folder"),
        ({"image": "/etc/passwd"}, "image: '/etc/passwd' lies outside the images folder"),
        ({"width": None}, "width: missing, where height stands"),
        ({"height": None}, "height: missing, where width stands"),
        ({"width": 0}, "width: 0 is not a number of pixels"),
        ({"width": 1.5}, "width: 1.5 is not a number of pixels"),
        ({"width": True}, "width: True is not a number of pixels"),
        ({"height": float("inf")}, "height: inf is not a number of pixels"),
        ({"height": float("nan")}, "height: nan is not a number of pixels"),
        ({"height": "480"}, "height: '480' is not a number of pixels"),
        ({"categories": []}, "categories: [] is not a list with at least one name"),
        ({"categories": "cat"}, "categories: 'cat' is not a list with at least one name"),
        ({"categories": ["cat", "cat"]}, "categories: a name stands twice"),
        ({"categories": ["cat", ""]}, "categories: empty"),
        ({"categories": ["cat", 3]}, "categories: 3 is not text"),
        ({"categories": ["dog"]}, "label: 'cat' is not among categories"),
        ({"categories": None, "objects": []}, "categories: missing, and no object names one"),
        ({"objects": None}, "objects: missing"),
        ({"objects": {}}, "objects: {} is not a list"),
        ({"objects": [3]}, "objects: 3 is not an object with a label"),
        ({"objects": [{"bbox": [1, 2, 3, 4]}]}, "label: missing in object 1"),
        ({"objects": [{"label": "", "bbox": [1, 2, 3, 4]}]}, "label: empty"),
        ({"objects": [{"label": "\ud800", "bbox": [1, 2, 3, 4]}]}, "label: '\\ud800' is not valid Unicode"),
        ({"objects": [{"label": "c\nt", "bbox": [1, 2, 3, 4]}]}, "label: 'c\\nt' is not among categories"),
        ({"objects": [{"label": "cat"}]}, "bbox: missing in object 1"),
        (
            {"objects": [{"label": "cat", "point": [1, 2]}]},
            "bbox: missing in object 1, which has point: not the geometry of detection",
        ),
        ({"objects": boxed(30, 2, 12, 8)}, "bbox: x1 12 <= x0 30"),
        ({"objects": boxed(12.5, 2, 12.5, 8)}, "bbox: x1 12.5 <= x0 12.5"),
        ({"objects": boxed(12, 8, 30, 2)}, "bbox: y1 2 <= y0 8"),
        ({"objects": boxed(1, 2, 3)}, "bbox: [1, 2, 3] is not [x0, y0, x1, y1]"),
        ({"objects": [{"label": "cat", "bbox": "1 2 3 4"}]}, "bbox: '1 2 3 4' is not [x0, y0, x1, y1]"),
        ({"objects": boxed(1, 2, 3, "4")}, "bbox: '4' is not a finite number"),
        ({"objects": boxed(True, 2, 3, 4)}, "bbox: True is not a finite number"),
        ({"objects": boxed(float("nan"), 2, 3, 4)}, "bbox: nan is not a finite number"),
        ({"objects": boxed(1, 2, float("inf"), 4)}, "bbox: inf is not a finite number"),
        ({"objects": boxed(1, 2, 3, 10**400)}, "bbox: 1000"),
        (
            {"objects": boxed(1, 2, 641.5, 4)},
            "bbox: [1, 2, 641.5, 4] reaches more than 1 pixel outside its 640x480 image",
        ),
        ({"objects": boxed(1, -1.5, 3, 4)}, "bbox: [1, -1.5, 3, 4] reaches more than 1 pixel outside"),
        ({"objects": boxed(640, 2, 641, 4)}, "bbox: [640, 2, 641, 4] has no area inside its 640x480 image"),
    ],
)
def test_a_bad_record_is_named_by_field_and_reason_and_skipped(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    assert only_bad(tmp_path, GOOD | {"id": "c"} | change).startswith(expected)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (
            {"bbox": [1, 2, 3, 4]},
            "point: missing in object 1, which has bbox: not the geometry of pointing",
        ),
        ({"point": [1]}, "point: [1] is not [x, y]"),
        ({"point": [1, None]}, "point: None is not a finite number"),
        ({"point": [1, 481.5]}, "point: [1, 481.5] lies more than 1 pixel outside its 640x480 image"),
    ],
)
def test_a_bad_point_is_named(tmp_path: Path, thing: dict[str, Any], expected: str) -> None:
    (bad,) = read(
        write(tmp_path, GOOD | {"task": "pointing", "objects": [{"label": "cat"} | thing]}), task="pointing"
    ).bad
    assert f"{bad.field}: {bad.reason}" == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["label", "bbox"]), inner, max_size=2),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(changes=st.lists(st.dictionaries(st.sampled_from(sorted(GOOD)), VALUES, min_size=1), min_size=1, max_size=3))
def test_whatever_a_field_holds_the_record_is_good_or_named(
    tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, Any]]
) -> None:
    """Random values in random fields: never another exception, never a message of two lines."""
    file = write(tmp_path_factory.getbasetemp(), *[GOOD | {"id": str(n)} | c for n, c in enumerate(changes)])
    try:
        found = read(file)
    except DataError:
        assert any(isinstance(change.get("task"), str) for change in changes)
        return
    assert found.num_read == len(found.records) + len(found.bad) == len(changes)
    assert all("\n" not in line for line in check_report(found))


@pytest.mark.parametrize("name", ["<|image_pad|>", "cat <12>", "<|im_end|>"])
def test_a_label_that_the_tokenizer_would_take_for_a_mark_is_refused(name: str) -> None:
    """Written into a prompt it would crash the learner (image tokens without an image) or end the answer."""
    with pytest.raises(DataError, match="holds the special token"):
        text({"label": name}, "label")
