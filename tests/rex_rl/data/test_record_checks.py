"""The checks of single fields, through the reader: every wrong value is named by field and reason, and skipped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from rex_rl.data.record_checks import identity, spoken
from rex_rl.data.records import RecordSet, check_report, read_records
from rex_rl.errors import DataError
from rex_rl.language.tasks import TASKS

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
            {"polygon": [[1, 2], [3, 4], [5, 9]]},
            "point: missing in object 1, which has polygon: not the geometry of pointing",
        ),
        ({"bbox": [9, 2, 3, 4]}, "bbox: x1 3 <= x0 9"),
        ({"bbox": [1, 2, 3, 4], "point": [4, 3]}, "point: [4, 3] lies outside its bbox [1, 2, 3, 4]"),
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
def test_a_label_that_holds_a_special_token_is_refused(name: str) -> None:
    """Written into a prompt it would crash the learner (image tokens without an image) or end the answer."""
    with pytest.raises(DataError, match="holds the special token"):
        spoken(name, "label")


def test_a_text_that_is_in_no_prompt_may_look_like_a_special_token() -> None:
    """Ids and paths are in no prompt."""
    assert identity({"id": "<|_|><12>"}) == "<|_|><12>"


BOX = [100, 100, 200, 200]
TRIANGLE = [[100, 100], [200, 100], [200, 200]]
FULL = {"size": [480, 640], "counts": [0, 640 * 480]}
PERSON = {"bbox": BOX, "keypoints": {"nose": [150, 120], "left eye": None}}
OBJECTS: dict[str, dict[str, Any]] = {
    "detection": {"bbox": BOX},
    "pointing": {"point": [1, 2]},
    "visual_prompting": {"bbox": BOX},
    "keypoint_person": PERSON,
    "ocr_box": {"bbox": BOX},
    "ocr_polygon": {"polygon": TRIANGLE},
}


def of_task(task: str, thing: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A record of a task with one object."""
    asked = {"categories": ["word"]} if TASKS[task].reads_text else {"categories": ["cat"]}
    things = [{"label": "cat"} | (OBJECTS[task] if thing is None else thing)]
    return GOOD | {"task": task, "objects": things, "visual_prompt": [BOX]} | asked | fields


def reason(tmp_path: Path, fields: dict[str, Any]) -> str:
    """Why the one record is refused; "" where it is not."""
    found = read(write(tmp_path, fields), task=fields["task"])
    return "".join(f"{bad.field}: {bad.reason}" for bad in found.bad)


@pytest.mark.parametrize("task", OBJECTS)
def test_a_task_refuses_what_is_not_its_geometry(tmp_path: Path, task: str) -> None:
    """At load and by name, whichever other geometry an object brings; its own is read."""
    assert reason(tmp_path, of_task(task)) == ""
    for other in ({"bbox": BOX}, {"point": [1, 2]}, {"polygon": TRIANGLE}, {"keypoints": {"nose": [1, 2]}}):
        (name,) = other
        if name not in OBJECTS[task] and not (task == "pointing" and name == "bbox"):
            missing = {"keypoint_person": "keypoints", "pointing": "point", "ocr_polygon": "polygon"}.get(task, "bbox")
            told = reason(tmp_path, of_task(task, other))
            assert told.startswith(f"{missing}: missing in object 1")
            assert (f"which has {name}: not the geometry of {task}" in told) == (
                not (task == "keypoint_person" and name == "bbox")
            )


@pytest.mark.parametrize(
    ("task", "thing", "expected"),
    [
        ("ocr_polygon", {"polygon": [[1, 2], [3, 4]]}, "polygon: [[1, 2], [3, 4]] is not a list of three or more [x, "),
        ("ocr_polygon", {"polygon": "1 2"}, "polygon: '1 2' is not a list of three or more [x, y]"),
        ("ocr_polygon", {"polygon": [[1, 2], [3, 4], [5]]}, "polygon: [5] is not [x, y]"),
        ("ocr_polygon", {"polygon": [[1, 2], [3, 4], [5, 6]]}, "polygon: [[1, 2], [3, 4], [5, 6]] has no area"),
        ("ocr_polygon", {"polygon": [[1, 2], [3, 4], [5, 999]]}, "polygon: [5, 999] lies more than 1 pixel outside"),
        ("keypoint_person", PERSON | {"bbox": None}, "bbox: missing in object 1"),
        ("keypoint_person", PERSON | {"keypoints": [1]}, "keypoints: [1] is not an object of names and [x, y]"),
        ("keypoint_person", PERSON | {"keypoints": {"tail": [1, 2]}}, "keypoints: 'tail' is none of nose, left eye, "),
        ("keypoint_person", PERSON | {"keypoints": {"nose": None}}, "keypoints: none can be seen"),
        ("keypoint_person", PERSON | {"keypoints": {}}, "keypoints: none can be seen"),
        ("keypoint_person", PERSON | {"keypoints": {"nose": [1]}}, "keypoints: [1] is not [x, y]"),
        ("keypoint_person", PERSON | {"keypoints": {"nose": [1, 999]}}, "keypoints: [1, 999] lies more than 1 pixel"),
        ("pointing", {"mask": "abc"}, 'mask: \'abc\' is not an object of "size" and "counts"'),
        ("pointing", {"mask": {"size": [480, 640]}}, "mask: {'size': [480, 640]} is not an object of"),
        ("pointing", {"mask": FULL | {"size": [640, 480]}}, "mask: size [640, 480] is not [height, width] of its 640x"),
        ("pointing", {"mask": FULL | {"counts": [307200]}}, "mask: nothing is inside"),
        ("pointing", {"mask": FULL | {"counts": [5, 5]}}, "mask: runs of 10 pixels, expected 307200"),
        ("pointing", {"mask": FULL | {"counts": [-1, 5]}}, "mask: run length -1 is not between 0 and 307200"),
        ("pointing", {"mask": FULL | {"counts": "z~"}}, "mask: "),
        ("pointing", {"mask": FULL | {"counts": ""}}, "mask: no run length"),
        ("pointing", {"mask": FULL | {"counts": "\u00e9"}}, "mask: "),
    ],
)
def test_a_bad_geometry_is_named(tmp_path: Path, task: str, thing: dict[str, Any], expected: str) -> None:
    assert reason(tmp_path, of_task(task, thing)).startswith(expected)


@pytest.mark.parametrize(
    ("task", "change", "expected"),
    [
        ("visual_prompting", {"visual_prompt": None}, "visual_prompt: missing, and visual_prompting asks by it"),
        ("visual_prompting", {"visual_prompt": []}, "visual_prompt: [] is not a list with at least one box"),
        ("visual_prompting", {"visual_prompt": [[9, 2, 3, 4]]}, "visual_prompt: x1 3 <= x0 9"),
        ("visual_prompting", {"visual_prompt": [[1, 2]]}, "visual_prompt: [1, 2] is not [x0, y0, x1, y1]"),
        ("visual_prompting", {"categories": ["cat", "dog"]}, "categories: visual_prompting asks for one at a time"),
        ("ocr_box", {"categories": ["letter"]}, "categories: 'letter' is not one of word, text line"),
        ("ocr_box", {"categories": None}, "categories: missing"),
        ("ocr_box", {"objects": [{"label": "<12>", "bbox": BOX}]}, "label: '<12>' holds the special token <12>"),
        ("keypoint_person", {"categories": ["cat", "cat2"]}, "categories: 'cat2' would read as one 'cat' of several"),
        ("detection", {"visual_prompt": "nonsense"}, ""),
    ],
)
def test_what_a_task_asks_with_is_checked(tmp_path: Path, task: str, change: dict[str, Any], expected: str) -> None:
    told = reason(tmp_path, of_task(task, **change))
    assert told.startswith(expected) if expected else not told


def test_masks_are_read_in_both_forms_of_coco(tmp_path: Path) -> None:
    """A list of run lengths and the compressed text are the same mask, which pycocotools agrees on."""
    pixels_HW = np.zeros((480, 640), dtype=np.uint8)
    pixels_HW[100:200, 300:500] = 1
    compressed = coco_masks.encode(np.asfortranarray(pixels_HW))
    runs = np.diff(np.flatnonzero(np.diff(pixels_HW.T.ravel(), prepend=0, append=2))).tolist()
    first = int(pixels_HW.T.ravel().argmax())
    forms = ([first, *runs[: len(runs)]], compressed["counts"].decode())
    found = []
    for counts in forms:
        fields = of_task("pointing", {"mask": {"size": [480, 640], "counts": counts}})
        (record,) = read(write(tmp_path, fields), task="pointing").records
        found.append(record.objects[0].mask)
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].size == (640, 480)


def test_unseen_key_points_are_all_there_in_the_tasks_order(tmp_path: Path) -> None:
    (record,) = read(write(tmp_path, of_task("keypoint_person")), task="keypoint_person").records
    keypoints = record.objects[0].keypoints
    assert keypoints is not None
    assert tuple(keypoints) == TASKS["keypoint_person"].keypoints
    assert {name: xy for name, xy in keypoints.items() if xy is not None} == {"nose": (150.0, 120.0)}
