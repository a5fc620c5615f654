"""Record files: what is read, what is named as bad, what stops the reading."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rex_rl.data.records import RecordSet, check_report, read_records
from rex_rl.errors import DataError
from rex_rl.language.tasks import TASKS
from rex_rl.types import Object, Record
from tests.support.examples import examples
from tests.support.task_records import records, write_records

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)

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


def refusal(file: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_records(file, **({"check_images": False} | options))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_status == 2
    return message


def test_a_record_is_read_as_it_stands(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    found = read_records(file, check_images=False)
    assert found.records == (
        Record(
            id="000042",
            image=str(tmp_path / "images/42.jpg"),
            task="detection",
            categories=("cat", "dog"),
            objects=(Object(label="cat", bbox=(12.0, 30.5, 99.0, 140.0)),),
            width=640,
            height=480,
            source=f"{file}:1",
        ),
    )
    assert (found.bad, found.num_read, dict(found.skipped)) == ((), 1, {})


def test_points_are_read_for_pointing(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD | {"task": "pointing", "objects": [{"label": "cat", "point": [640.5, 12]}]})
    (record,) = read(file, task="pointing").records
    assert record.objects == (Object(label="cat", point=(640.0, 12.0)),)


def test_reading_is_lenient_where_nothing_is_lost(tmp_path: Path) -> None:
    """Unknown keys, blank lines, a byte order mark, a whole-number id, no task, no categories, other geometry."""
    fields = {key: value for key, value in GOOD.items() if key not in ("task", "categories")} | {"id": 7, "extra": [1]}
    fields["objects"] = [
        {"label": name, "bbox": [1, 2, 3, 4], "polygon": [[0, 0]], "score": 1} for name in ("dog", "cat", "dog")
    ]
    file = tmp_path / "train.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(fields).encode() + b"\n\n  \n" + json.dumps(GOOD).encode())
    first, second = read(file).records
    assert (first.id, first.task, first.categories) == ("7", "detection", ("dog", "cat"))
    assert second.source == f"{file}:4"


def test_boxes_within_a_pixel_of_the_image_are_clipped(tmp_path: Path) -> None:
    (record,) = read(write(tmp_path, GOOD | {"objects": boxed(-1, -0.25, 641, 481)})).records
    assert record.objects[0].bbox == (0.0, 0.0, 640.0, 480.0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "c", ', "json: Expecting property name enclosed in double quotes at column 12"),
        ("[1, 2]", "json: a list, not an object"),
        ("null", "json: a NoneType, not an object"),
        ("[" * 100_000, "json: maximum recursion depth exceeded"),
        ('{"id": ' + "9" * 5000 + "}", "json: Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_record_is_a_bad_record(tmp_path: Path, line: Any, expected: str) -> None:
    assert only_bad(tmp_path, line).startswith(expected)


def test_bytes_that_are_not_text_are_a_bad_record(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    file.write_bytes(file.read_bytes() + b'{"id": "\xff"}\n')
    (bad,) = read(file).bad
    assert (bad.line, bad.field) == (2, "json")
    assert "codec can't decode" in bad.reason


def test_sizes_come_from_image_headers_where_the_file_does_not_say(tmp_path: Path) -> None:
    """Also without `check_images`; with it, a size that the file gives must be the header's."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "images" / "42.jpg")
    bare = {key: value for key, value in GOOD.items() if key not in ("width", "height")}
    for check_images in (True, False):
        (record,) = read(write(tmp_path, bare), check_images=check_images).records
        assert record.size == (640, 480)
    (bad,) = read(write(tmp_path, GOOD | {"width": 500, "height": 375}), check_images=True).bad
    assert (bad.field, bad.reason) == ("image", "is 640x480, the file says 500x375")
    assert not read(write(tmp_path, GOOD), check_images=True).bad


def test_an_image_that_is_not_one_is_a_bad_record(tmp_path: Path) -> None:
    """Named when images are checked, not looked at when they are not, and truncation only when they are decoded."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "42.jpg"
    file = write(tmp_path, GOOD)

    def reason(**options: bool) -> str:
        (bad,) = read(file, **options).bad
        assert bad.field == "image"
        return bad.reason

    assert reason(check_images=True).startswith("no such file")
    path.write_text("not an image")
    assert reason(check_images=True).startswith("cannot identify image file")
    assert not read(file, check_images=False).bad
    Image.effect_noise((640, 480), 50).save(path)
    path.write_bytes(path.read_bytes()[:20_000])
    assert not read(file, check_images=True).bad
    assert "truncated" in reason(decode_images=True)


def test_images_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD | {"image": "42.jpg"})
    (tmp_path / "elsewhere").mkdir()
    (record,) = read(file, images=tmp_path / "elsewhere").records
    assert record.image == str(tmp_path / "elsewhere" / "42.jpg")
    assert "no such folder" in refusal(file, images=tmp_path / "none")


def test_too_many_bad_records_stop_with_one_line(tmp_path: Path) -> None:
    """The line says how many of how many, the limit, the file and the first bad one; at the limit itself, none."""
    good = [GOOD | {"id": str(number)} for number in range(98)]
    bad = [GOOD | {"id": f"bad {number}", "objects": boxed(30, 2, 12, 8)} for number in range(2)]
    file = write(tmp_path, *good[:50], *bad, *good[50:])
    assert refusal(file) == (
        f"{file}: 2 of 100 records are bad, more than max_bad_fraction 0.01 allows; "
        f"first: {file}:51: bbox: x1 12 <= x0 30"
    )
    assert len(read_records(file, check_images=False, max_bad_fraction=0.02).bad) == 2
    assert "1 of 1 records are bad" in refusal(write(tmp_path, bad[0]))


@pytest.mark.parametrize("found", ["pointing", "ocr"])
def test_a_record_of_another_task_stops_at_once(tmp_path: Path, found: str) -> None:
    file = write(tmp_path, GOOD, GOOD | {"id": "b", "task": found})
    message = refusal(file, max_bad_fraction=1.0)
    assert message == f"{file}:2: task: asked for 'detection', found '{found}'"


def test_an_unknown_task_is_named_with_the_known_ones(tmp_path: Path) -> None:
    assert "no such task 'detektion' (known: detection" in refusal(write(tmp_path, GOOD), task="detektion")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty, no record in it"),
        (b"\n \n", "empty, no record in it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "not JSON lines: line 1: 'utf-8' codec can't decode"),
        (json.dumps([GOOD]).encode(), "not JSON lines: line 1: a list, not an object"),
        (json.dumps(GOOD, indent=1).encode(), "not JSON lines: line 1: Expecting property name"),
        (b"id,image,label\n1,a.jpg,cat\n" * 30, "not JSON lines: line 1: Expecting value at column 1"),
        (json.dumps(GOOD).encode("utf-16"), "not JSON lines: line 1: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(content)
    assert refusal(file, max_bad_fraction=1.0).startswith(f"{file}: {expected}")


def test_a_file_that_is_not_there_or_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jsonl") == f"{tmp_path / 'none.jsonl'}: no such file"
    assert refusal(tmp_path) == f"{tmp_path}: Is a directory"


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rex_rl.data.records.MAX_LINE_BYTES", 100)
    assert "not JSON lines: line 1 has 100 bytes or more" in refusal(write(tmp_path, "x" * 1000))


def test_the_report_names_every_bad_record_and_sums_up_the_rest(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        GOOD,
        GOOD | {"id": "b", "objects": []},
        GOOD | {"id": "c", "objects": boxed(30, 2, 12, 8)},
        GOOD | {"id": "d", "width": 641, "objects": [{"label": "dog", "bbox": [1, 2, 3, 4]}] * 3},
        GOOD | {"id": "e", "categories": ["two\nlines"], "objects": []},
    )
    lines = check_report(read(file))
    assert lines == [
        f"{file}:3: bbox: x1 12 <= x0 30",
        f"{file}: 5 records read, 4 good, 1 bad",
        "objects: 4; in an image 0 at least, 0.5 in the middle, 3 at most",
        "coincide on the answer grid with another of their label, and count as one: 2 objects in 1 records; the first: "
        f"{file}:4",
        "categories: 3, 2 of them with objects: dog 3, cat 1",
        "image sizes: 2: 640x480 3, 641x480 1",
    ]
    assert all("\n" not in line for line in lines)


def test_the_report_of_only_bad_records_ends_with_their_count(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD | {"objects": boxed(30, 2, 12, 8)})
    assert check_report(read(file))[-1] == f"{file}: 1 records read, 0 good, 1 bad"


@pytest.mark.parametrize("task", TASKS)
@examples(0.2)
@given(data=st.data())
def test_what_is_written_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, task: str, data: st.DataObject
) -> None:
    """Every geometry, key points unseen among them, masks in their compressed form, visual prompts."""
    folder = tmp_path_factory.getbasetemp()
    file = folder / "written.jsonl"
    names = data.draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    written = [
        replace(data.draw(records(task)), id=name, image=str(folder / f"images/{line}.jpg"), source=f"{file}:{line}")
        for line, name in enumerate(names, start=1)
    ]
    write_records(file, written)
    assert list(read_records(file, task=task, check_images=False, max_bad_fraction=0).records) == written


def test_names_and_texts_are_as_a_tokenizer_gives_them_back(tmp_path: Path) -> None:
    """Composed (NFC), without blanks around them; two that become one are refused: no answer could tell them apart."""
    thing = {"label": " cafe\u0301 ", "bbox": [1, 2, 3, 4]}
    one = GOOD | {"categories": ["caf\u00e9", "dog "], "objects": [thing]}
    two = GOOD | {"id": "b", "categories": ["cat", "cat "], "objects": []}
    found = read(write(tmp_path, one, two))
    (record,) = found.records
    assert (record.categories, record.labels) == (("caf\u00e9", "dog"), ("caf\u00e9",))
    assert [bad.text.partition(":2: ")[2] for bad in found.bad] == ["categories: a name stands twice"]


def test_each_record_may_name_its_own_task(tmp_path: Path) -> None:
    """For a mix of tasks in one file; one that names none is detection, and one that does not exist is a bad record."""
    point = {"task": "pointing", "objects": [{"label": "cat", "point": [1, 2]}]}
    bare = {key: value for key, value in GOOD.items() if key != "task"}
    file = write(tmp_path, GOOD, GOOD | {"id": "b"} | point, bare | {"id": "c"}, GOOD | {"id": "d", "task": "walking"})
    found = read(file, task=None)
    assert [record.task for record in found.records] == ["detection", "pointing", "detection"]
    assert [bad.text.partition("(")[0] for bad in found.bad] == [f"{file}:4: task: no such task 'walking' "]


def test_thousands_of_records_take_less_than_a_second_or_so(tmp_path: Path) -> None:
    """About 0.1 ms a record of ten boxes; the limit leaves room for a loaded machine."""
    things = [{"label": "cat", "bbox": [number, 2.5, number + 10.25, 40.5]} for number in range(10)]
    file = write(tmp_path, *[GOOD | {"id": number, "objects": things} for number in range(3_000)])
    start = time.perf_counter()
    assert len(read_records(file, check_images=False).records) == 3_000
    assert time.perf_counter() - start < 5
