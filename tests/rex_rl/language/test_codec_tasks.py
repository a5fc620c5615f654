"""Laws every task keeps: a written answer reads back as the truth, and answers use the categories asked for."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.geometry.masks import Mask, read_masks
from rewards.geometry.polygons import region_iou, regions
from rex_rl.language.codec import Codec, encode_answer, question_of, truth_on_grid
from rex_rl.language.grid import objects_of
from rex_rl.language.rle import compress
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.types import Object, Shapes
from tests.support.examples import examples
from tests.support.task_records import record_of, records

ALL = pytest.mark.parametrize("task", TASKS)


def rows(labels: tuple[str, ...], bins_NK: np.ndarray) -> list[tuple[str, list[int]]]:
    return sorted(zip(labels, bins_NK.tolist(), strict=True))


def decode(codec: Codec, text: str, task: str, categories: tuple[str, ...] = ("cat",)) -> Shapes:
    return codec.decode_text(text, task=TASKS[task], categories=categories)


@ALL
@given(data=st.data())
@examples(0.2)
def test_an_encoded_answer_decodes_to_the_truth(codec: Codec, task: str, data: st.DataObject) -> None:
    """In real tokens, whatever the category order: every shape once, under its label, and no fault."""
    record = data.draw(records(task))
    categories = tuple(data.draw(st.permutations(record.categories)))
    truth = truth_on_grid(record)
    tokens_T = codec.encode(record, categories)
    shapes = codec.decode(tokens_T, task=TASKS[task], categories=record.categories)
    assert shapes.faults == ()
    assert rows(shapes.labels, shapes.bins_NK) == rows(truth.labels, truth.bins_NK)
    assert shapes.bins_NK.shape == truth.bins_NK.shape
    assert set(shapes.absent) == set(truth.empty_categories)
    assert (np.diff(shapes.spans_N2.ravel()) >= 0).all()


@ALL
@given(data=st.data())
@examples(0.2)
def test_shapes_are_written_by_ascending_first_coordinate(codec: Codec, task: str, data: st.DataObject) -> None:
    """Within a category or a text; and texts by their first shape."""
    record = data.draw(records(task))
    shapes = codec.decode(codec.encode(record, record.categories), task=TASKS[task], categories=record.categories)
    first_of: dict[str, list[int]] = {}
    for label, bins_K in zip(shapes.labels, shapes.bins_NK, strict=True):
        first_of.setdefault(label, []).append(int(bins_K[0]))
    assert all(column == sorted(column) for column in first_of.values())
    if TASKS[task].reads_text:
        starts = [column[0] for column in first_of.values()]
        assert starts == sorted(starts)
    else:
        assert list(first_of) == [name for name in record.categories if name in first_of]


@ALL
@given(data=st.data())
@examples(0.2)
def test_objects_come_back_within_half_a_bin(codec: Codec, task: str, data: st.DataObject) -> None:
    """Decoded objects lie where their grid shapes do, and putting them on the grid again changes nothing."""
    record = data.draw(records(task))
    shapes = codec.decode(codec.encode(record, record.categories), task=TASKS[task], categories=record.categories)
    predicted = replace(record, objects=objects_of(shapes, TASKS[task], record.size))
    if all(thing.keypoints is None or any(thing.keypoints.values()) for thing in predicted.objects):
        assert rows(shapes.labels, truth_on_grid(predicted).bins_NK) == rows(shapes.labels, shapes.bins_NK)


@ALL
def test_an_absent_category_is_answered_with_none(codec: Codec, task: str) -> None:
    categories = TASKS[task].choices[:1] or ("cat",)
    record = record_of(task, categories=categories)
    assert encode_answer(record, categories).count("None") == 1
    shapes = codec.decode(codec.encode(record, categories), task=TASKS[task], categories=categories)
    assert (shapes.absent, shapes.labels, shapes.faults) == (categories, (), ())
    assert truth_on_grid(record).empty_categories == categories


@ALL
def test_a_question_is_plain_text_but_for_the_visual_prompt(vocabulary: Vocabulary, task: str) -> None:
    """No delimiter and no image token gets into a prompt; coordinates only where examples are shown."""
    question = question_of(record_of(task))
    marks = {token for token in vocabulary.encode(question) if token >= vocabulary.first_coordinate_id}
    assert bool(marks) == TASKS[task].takes_examples


def test_a_visual_prompt_is_the_official_json_on_the_grid() -> None:
    """rex_omni/wrapper.py: one list under `object_1`; the category's name is nowhere, in question or answer."""
    box = Object(label="zebra", bbox=(0.0, 0.0, 999.0, 500.0))
    record = record_of("visual_prompting", box, size=(999, 999), visual_prompt=((1.0, 2.0, 30.0, 40.0),) * 2)
    assert '{"object_1": ["<1><2><30><40>", "<1><2><30><40>"]} indicating' in question_of(record)
    assert json.loads(re.findall(r"\{.*\}", question_of(record, 1))[0]) == {"object_1": ["<1><2><30><40>"] * 2}
    answer = encode_answer(record, ("zebra",))
    assert answer == "<|object_ref_start|>object_1<|object_ref_end|><|box_start|><0><0><999><500><|box_end|>"
    assert all("zebra" not in text for text in (answer, *(question_of(record, wording) for wording in range(3))))


def test_under_a_visual_prompt_only_its_phrase_counts(codec: Codec) -> None:
    predicted = "<|object_ref_start|>{}<|object_ref_end|><|box_start|><1><2><3><4><|box_end|>"
    right, wrong = (decode(codec, predicted.format(name), "visual_prompting") for name in ("object_1", "cat"))
    assert (right.labels, right.faults) == (("cat",), ())
    assert wrong.faults == ("unknown_label",)


def test_equal_texts_share_a_segment() -> None:
    words = [("b", 500.0), ("a", 300.0), ("b", 100.0), ("a", 300.0)]
    record = record_of("ocr_box", *(Object(label=text, bbox=(x, 0.0, x + 9, 9.0)) for text, x in words))
    answer = encode_answer(record, ("word",))
    assert re.findall(r"start\|>(\w)<", answer) == ["b", "a"]
    assert re.findall(r"box_start\|>(.*?)<\|", answer)[0] == "<100><0><109><9>,<500><0><508><9>"


@pytest.mark.parametrize(
    ("body", "labels", "absent", "faults"),
    [
        (["word:<1><2><3><4>"], ("word",), (), ()),  # a text may read like what was asked for
        (["a:<1><2><3><4>", "a:<5><6><7><8>"], ("a", "a"), (), ()),
        (["word:None"], (), ("word",), ()),
        (["a:None"], (), ("a",), ("unknown_label",)),
        (["word:None", "a:<1><2><3><4>"], ("a",), ("word",), ("repeated_label",)),
        (["word:None", "word:None"], (), ("word", "word"), ("repeated_label",)),
        ([" :<1><2><3><4>"], ("",), (), ("broken_segment",)),
    ],
)
def test_recognised_text(codec: Codec, body: list[str], labels: object, absent: object, faults: object) -> None:
    """Any phrase is a right phrase; `None` is for what was asked, alone."""
    pairs = [segment.partition(":") for segment in body]
    text = ", ".join(f"<|object_ref_start|>{a}<|object_ref_end|><|box_start|>{b}<|box_end|>" for a, _, b in pairs)
    shapes = decode(codec, text, "ocr_box", ("word",))
    assert (shapes.labels, shapes.absent, shapes.faults) == (labels, absent, faults)


def test_polygons_of_different_length_repeat_their_last_vertex(codec: Codec) -> None:
    three, five = "<1><1><9><1><9><9>", "<1><1><9><1><9><5><9><9><1><9>"
    text = f"<|object_ref_start|>a<|object_ref_end|><|box_start|>{three},{five}<|box_end|>"
    shapes = decode(codec, text, "ocr_polygon", ("word",))
    assert shapes.bins_NK.tolist() == [[1, 1, 9, 1, 9, 9, 9, 9, 9, 9], [1, 1, 9, 1, 9, 5, 9, 9, 1, 9]]
    predicted = objects_of(shapes, TASKS["ocr_polygon"], (999, 999))
    assert [len(thing.polygon or ()) for thing in predicted] == [3, 5]
    assert decode(codec, "", "ocr_polygon", ("word",)).bins_NK.shape == (0, 6)


@pytest.mark.parametrize(
    ("shape", "faults"),
    [
        ("<1><2><3><4>", ("bad_count",)),
        ("<1><2><3><4><5><6><7>", ("bad_count",)),
        ("<1><1><5><5><9><9>", ("zero_area",)),
        ("<1><1><9><1><9><9>", ()),
    ],
)
def test_a_polygon_has_three_vertices_and_area(codec: Codec, shape: str, faults: tuple[str, ...]) -> None:
    good = "<1><1><9><1><9><9>"
    text = f"<|object_ref_start|>a<|object_ref_end|><|box_start|>{shape},{good}<|box_end|>"
    shapes = decode(codec, text, "ocr_polygon", ("word",))
    assert shapes.faults == faults
    assert shapes.bins_NK[-1].tolist() == [1, 1, 9, 1, 9, 9]


def test_a_polygon_thinner_than_the_grid_becomes_its_box() -> None:
    thin = Object(label="l", polygon=((10.0, 10.0), (10.1, 10.0), (10.1, 900.0)))
    truth = truth_on_grid(record_of("ocr_polygon", thin, size=(1000, 1000)))
    assert truth.bins_NK.tolist() == [[10, 10, 11, 10, 11, 899, 10, 899]]


def test_a_polygon_that_encloses_nothing_becomes_its_box() -> None:
    """Rings that cross themselves: with an area by the shoelace formula and none by what they enclose."""
    x_V = np.linspace(0, 2000, 40)
    upper = np.stack([x_V, 1500 + 400 * np.sin(x_V / 300)], axis=1)
    band = np.concatenate([upper, (upper + np.array([0, 2]))[::-1]])  # 80 vertices round a line of text, 2 pixels thick
    for ring, size in ((band, (4000, 3000)), (np.array([[0, 2], [3, 2], [2, 2], [0, 1], [3, 2.0]]), (999, 999))):
        thing = Object(label="l", polygon=tuple(map(tuple, ring.tolist())))
        truth = truth_on_grid(record_of("ocr_polygon", thing, size=size))
        assert region_iou(regions(truth.bins_NK), regions(truth.bins_NK)).tolist() == [1.0]


def test_where_to_point() -> None:
    """The point given, else inside the mask, else the middle of the box."""
    ring = Mask((9, 9), compress([10, 7, 2, 1, 5, 1, 2, 7, 46]))  # its middle is empty
    box = (100.0, 200.0, 301.0, 400.0)
    for thing, target in [
        (Object(label="cat", point=(150.0, 250.0), bbox=box), [150, 250]),
        (Object(label="cat", bbox=box), [200, 300]),
    ]:
        assert truth_on_grid(record_of("pointing", thing, size=(999, 999))).bins_NK.tolist() == [target]
    truth = truth_on_grid(record_of("pointing", Object(label="cat", mask=ring), size=(9, 9)))
    assert read_masks([ring]).contain(truth.bins_NK, 0).all()


@given(data=st.data())
def test_the_true_point_is_right(data: st.DataObject) -> None:
    """In its mask where every object has one that a line of the grid meets, else in its box, both inclusive."""
    truth = truth_on_grid(data.draw(records("pointing")))
    if truth.masks:
        assert read_masks(truth.masks).contain(truth.bins_NK, np.arange(len(truth.masks))).all()
    if truth.boxes_N4 is not None:
        assert (truth.bins_NK >= truth.boxes_N4[:, :2]).all()
        assert (truth.bins_NK <= truth.boxes_N4[:, 2:]).all()


def test_masks_and_boxes_are_given_where_all_objects_have_them() -> None:
    mask, box = Mask((9, 9), compress([0, 81])), (0.0, 0.0, 9.0, 9.0)
    both, boxed = Object(label="cat", mask=mask, bbox=box), Object(label="cat", bbox=box)
    bare = Object(label="cat", point=(1.0, 1.0))
    for things, has_masks, has_boxes in (
        ((both, both), True, False),
        ((both, boxed), False, True),
        ((both, bare), False, False),
        ((), False, False),
    ):
        truth = truth_on_grid(record_of("pointing", *things, size=(9, 9)))
        assert (bool(truth.masks), truth.boxes_N4 is not None) == (has_masks, has_boxes)


def test_the_released_models_own_style_decodes_to_the_right_counts(codec: Codec) -> None:
    """Spaces between special tokens, ", " between shapes, quads under text with commas and quotes."""
    ocr = (
        ' <|object_ref_start|> Hello, "World" <|object_ref_end|> <|box_start|> <113> <713> <202> <710> <206> <751> '
        "<115> <753> <|box_end|> , <|object_ref_start|> text line <|object_ref_end|> <|box_start|> <44> <3> <989> <3> "
        "<989> <66> , <106> <1> <200> <1> <200> <9> <106> <9> <|box_end|> <|im_end|>"
    )
    shapes = decode(codec, ocr, "ocr_polygon", ("text line",))
    assert (shapes.labels, shapes.faults) == (('Hello, "World"', "text line", "text line"), ())
    boxes = (
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|><1><2><3><4>, <5><6><7><8>, <9><9><10><10><|box_end|>"
    )
    assert len(decode(codec, boxes, "detection").labels) == 3


def test_a_group_decodes_as_its_answers_do(codec: Codec) -> None:
    answers = [codec.encode(record_of("detection", *(cat(i) for i in range(num))), ("cat",)) for num in (3, 0, 7)]
    answers += [answers[0][:7], np.append(answers[2][:-1], answers[0])]  # cut; every phrase twice
    for task in ("detection", "ocr_box", "ocr_polygon", "keypoint_hand"):
        questions = [("cat",), ("dog",)]
        together_PG = codec.decode_groups([answers] * 2, questions, task=TASKS[task])
        pairs = [(shapes, asked) for shapes_G, asked in zip(together_PG, questions, strict=True) for shapes in shapes_G]
        for tokens_T, (shapes, asked) in zip(answers * 2, pairs, strict=True):
            alone = codec.decode(tokens_T, task=TASKS[task], categories=asked)
            assert (alone.labels, alone.faults, alone.absent) == (shapes.labels, shapes.faults, shapes.absent)
            assert (alone.bins_NK == shapes.bins_NK).all()
            assert (alone.spans_N2 == shapes.spans_N2).all()
    assert codec.decode_group([], task=TASKS["detection"], categories=("cat",)) == []


def cat(place: int) -> Object:
    return Object(label="cat", bbox=(10.0 * place, 5.0, 10.0 * place + 8.0, 60.0))
