"""COCO instances files, the choice of the reader, and real photographs with hand-drawn boxes."""

import json
from pathlib import Path
from typing import Any

import pytest

from rex_rl.data.coco import read_coco, read_dataset
from rex_rl.data.images import open_image
from rex_rl.data.records import RecordSet, check_report
from rex_rl.errors import DataError
from tests.support.task_records import write_records

PHOTOS = Path(__file__).parents[2] / "fixtures" / "photos"


def image(id: object = 7, **change: object) -> dict[str, Any]:
    return {"id": id, "file_name": f"{id}.jpg", "width": 640, "height": 480} | change


def annotation(
    bbox: object = (10, 20, 30, 40), *, image_id: object = 7, category_id: object = 3, **more: object
) -> Any:
    return {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": 0} | more


def write(folder: Path, images: object, annotations: object, categories: object = None, **more: object) -> Path:
    names = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}] if categories is None else categories
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": names} | more))
    return file


def read(file: Path, **options: Any) -> RecordSet:
    return read_coco(file, **({"check_images": False, "max_bad_fraction": 1.0} | options))


def refusal(file: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_coco(file, **({"check_images": False} | options))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def test_boxes_names_and_ids_are_translated(tmp_path: Path) -> None:
    """xywh becomes corners; the categories present are asked for, in their order; the id is the image's."""
    dog = annotation((0, 0, 640.5, 480.25), category_id=90)
    file = write(tmp_path, [image()], [dog, annotation(), dog])
    (record,) = read(file).records
    assert record.id == "7"
    assert record.image == str(tmp_path / "7.jpg")
    assert record.categories == ("dog", "cat")
    assert [thing.label for thing in record.objects] == ["dog", "cat", "dog"]
    assert record.objects[0].bbox == (0.0, 0.0, 640.0, 480.0)
    assert record.objects[1].bbox == (10.0, 20.0, 40.0, 60.0)
    assert (record.size, record.task, record.source) == ((640, 480), "detection", f"{file}#7")


def test_crowds_and_images_without_a_box_are_left_out_and_counted(tmp_path: Path) -> None:
    """An image with crowd regions alone asks nothing either; none of this is bad."""
    crowd = annotation(iscrowd=1)
    found = read(
        write(tmp_path, [image(7), image(8), image(9)], [annotation(), crowd, annotation(image_id=8, iscrowd=1)])
    )
    assert [len(record.objects) for record in found.records] == [1]
    assert found.skipped == {"crowd regions": 2, "images without a box": 2}
    assert (found.num_read, found.bad) == (1, ())
    assert "left out: 2 images without a box" in check_report(found)


@pytest.mark.parametrize(
    ("image_change", "annotations", "expected"),
    [
        ({"file_name": None}, [annotation()], "image_7: file_name: missing"),
        ({"file_name": "../7.jpg"}, [annotation()], "image: '../7.jpg' lies outside the images folder"),
        ({"width": None}, [annotation()], "width: missing, where height stands"),
        ({}, [annotation((30, 20, 0, 40))], "bbox: x1 30 <= x0 30"),
        ({}, [annotation((30, 20, 10, -4))], "bbox: y1 16 <= y0 20"),
        ({}, [annotation((600, 20, 50, 40))], "bbox: [600, 20, 650, 60] reaches more than 1 pixel outside its 640x480"),
        ({}, [annotation((1, 2, 3))], "bbox: [1, 2, 3] is not [x, y, width, height]"),
        ({}, [annotation((1, 2, 3, float("nan")))], "bbox: nan is not a finite number"),
        ({}, [annotation((1.5, 2, 10**400, 3))], "bbox: 1000"),
        ({}, [annotation(None)], "bbox: missing"),
        ({}, [annotation(category_id=4)], "category_id: 4 is not among categories"),
        ({}, [annotation(category_id=[3])], "category_id: [3] is not among categories"),
        ({}, [annotation(), annotation((30, 20, 0, 40))], "bbox: x1 30 <= x0 30"),
    ],
)
def test_a_bad_image_or_annotation_makes_the_record_bad(
    tmp_path: Path, image_change: dict[str, Any], annotations: list[Any], expected: str
) -> None:
    file = write(tmp_path, [image(7, **image_change), image(8)], [*annotations, annotation(image_id=8)])
    found = read(file)
    assert [record.id for record in found.records] == ["8"]
    (bad,) = found.bad
    assert bad.text.startswith(f"{file}#7: {expected.removeprefix('image_7: ')}")
    assert found.num_read == 2


def test_ids_that_are_missing_or_twice_are_bad_records(tmp_path: Path) -> None:
    found = read(write(tmp_path, [image(7), image(7), image(None), "x"], [annotation()]))
    assert [bad.text.split("instances.json")[1] for bad in found.bad] == [
        "#7: id: '7' stands twice in images",
        "#?: id: missing",
        "#?: id: missing",
    ]


def test_annotations_of_images_that_are_not_listed_are_bad_once_an_image(tmp_path: Path) -> None:
    strays = [annotation(image_id=99), annotation(image_id=99), annotation(image_id={}), 5]
    found = read(write(tmp_path, [image()], [annotation(), *strays]))
    assert [f"{bad.field}: {bad.reason}" for bad in found.bad] == [
        "image_id: 99 of annotation 2 is not among images",
        "image_id: {} of annotation 4 is not among images",
        "image_id: None of annotation 5 is not among images",
    ]
    assert found.num_read == 4


def test_too_many_bad_records_stop_with_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, [image(7), image(8)], [annotation(), annotation((30, 20, 0, 40), image_id=8)])
    assert refusal(file) == (
        f"1 of 2 records are bad, more than max_bad_fraction 0.01 allows; first: {file}#8: bbox: x1 30 <= x0 30"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON: Expecting value at line 1, column 1"),
        (b"\xff\xfe", "not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        (b"[]", "not a COCO file: a list, not an object"),
        (b'{"images": []}', "not a COCO file: 'annotations' is missing"),
        (b'{"images": {}, "annotations": [], "categories": []}', "not a COCO file: 'images' is not a list"),
        (b'{"images": [], "annotations": [], "categories": []}', "no image with a box in it"),
        (b'{"images": [], "annotations": [], "categories": [{"name": "x"}]}', "category 1: id: missing"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category 1: name: missing"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "instances.json"
    file.write_bytes(content)
    assert refusal(file, max_bad_fraction=1.0).startswith(expected)


def test_a_task_that_boxes_do_not_answer_is_refused(tmp_path: Path) -> None:
    assert "asked for 'pointing'" in refusal(write(tmp_path, [image()], [annotation()]), task="pointing")
    assert refusal(tmp_path / "none.json") == "no such file"


def test_image_headers_must_agree_when_images_are_checked(tmp_path: Path) -> None:
    """And give the size where the file has none."""
    photo = {"id": 1, "file_name": "coffee.jpg"}
    boxes = [annotation(image_id=1)]
    (record,) = read(write(tmp_path, [photo], boxes), images=PHOTOS).records
    assert record.size == (480, 320)
    file = write(tmp_path, [photo | {"width": 500, "height": 375}], boxes)
    (bad,) = read(file, images=PHOTOS, check_images=True).bad
    assert bad.text == f"{file}#1: image: is 480x320, the file says 500x375"
    assert not read(file, images=PHOTOS, check_images=False).bad


def test_the_reader_is_chosen_by_the_suffix(tmp_path: Path) -> None:
    """`.json` is COCO, anything else JSON lines; a file that is neither is refused with the place of the fault."""
    coco = write(tmp_path, [image()], [annotation()])
    options: dict[str, Any] = {"check_images": False}
    records = read_dataset(coco, **options).records
    write_records(tmp_path / "records.jsonl", records)
    (again,) = read_dataset(tmp_path / "records.jsonl", **options).records
    assert (again.objects, again.source) == (records[0].objects, f"{tmp_path / 'records.jsonl'}:1")
    for content, expected in (
        ("[]", "not a COCO file: a list"),
        ('{"images": []}', "'annotations' is missing"),
        ('{"images":\n[}', "not JSON: .* at line 2, column 2"),
        ("", "not JSON"),
    ):
        coco.write_text(content)
        with pytest.raises(DataError, match=expected):
            read_dataset(coco, **options)
    for name in ("none.json", "none.jsonl"):
        with pytest.raises(DataError, match="no such file"):
            read_dataset(tmp_path / name)


def test_real_photographs_are_read_without_a_bad_record() -> None:
    """Four photographs, 26 boxes; every image decodes to the size its record says."""
    found = read_dataset(PHOTOS / "instances.json", max_bad_fraction=0, decode_images=True)
    assert [len(record.objects) for record in found.records] == [6, 4, 4, 12]
    assert (found.bad, dict(found.skipped)) == ((), {})
    for record in found.records:
        assert open_image(record.image, size=record.size).size == record.size
    cat = found.records[1]
    assert cat.categories == ("cat", "eye", "nose")
    assert cat.objects[1].bbox == (134.0, 84.0, 210.0, 148.0)


def test_the_boxes_of_the_photographs_lie_where_their_things_are() -> None:
    """Colours at the boxes' centres: red cup, brown coffee, green eyes, white rocket, bright lights in a dark sky."""
    things = {}
    for record in read_dataset(PHOTOS / "instances.json").records:
        picture = open_image(record.image)
        for thing in record.objects:
            x0, y0, x1, y1 = thing.bbox
            things.setdefault(thing.label, []).append(picture.getpixel((int(x0 + x1) // 2, int(y0 + y1) // 2)))
    assert all(min(colour) > 150 for colour in things["light"])
    assert min(things["rocket"][0]) > 100
    for red, _, blue in (*things["cup"], *things["coffee"], *things["saucer"], *things["nose"]):
        assert red > 1.5 * blue
