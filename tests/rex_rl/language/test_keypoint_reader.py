"""Key point answers: the official JSON, read so that nothing broken in one instance touches the next."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.language.codec import Codec, encode_answer
from rex_rl.language.grid import objects_of
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.types import Object, Shapes
from tests.support.examples import examples
from tests.support.task_records import record_of

TASK = TASKS["keypoint_person"]
NAMES = TASK.keypoints
PLACES: dict[str, str] = dict.fromkeys(NAMES, "unvisible") | {"nose": " <540> <351> "}
GOOD = {"bbox": " <1> <36> <987> <984> ", "keypoints": PLACES}
ROW = [1, 36, 987, 984, 540, 351] + [-1] * 32


def fenced(value: object) -> str:
    return f"```json\n{json.dumps(value, ensure_ascii=False)}\n```"


def read(
    codec: Codec, text: str, categories: tuple[str, ...] = ("person", "cat"), *, end: str = "<|im_end|>"
) -> Shapes:
    """An answer as it stands, without an end token of our own."""
    tokens = codec._vocabulary.encode(text + end)
    return codec.decode(tokens, task=TASK, categories=categories)


def test_the_official_form_is_written() -> None:
    """rex_omni/parser.py: a fence, instances by number, coordinates between spaces, `unvisible`."""
    seen = dict.fromkeys(NAMES, None) | {"nose": (540.0, 351.0)}
    person = Object(label="person", bbox=(1.0, 36.0, 987.0, 984.0), keypoints=seen)
    left = Object(label="person", bbox=(0.0, 36.0, 987.0, 984.0), keypoints=seen)
    answer = encode_answer(record_of("keypoint_person", person, left, size=(999, 999)), ("cat", "person"))
    expected = {"cat": "None", "person1": GOOD | {"bbox": " <0> <36> <987> <984> "}, "person2": GOOD}
    assert answer == fenced(expected)


@pytest.mark.parametrize(
    "text",
    [
        fenced({"person1": GOOD, "cat": "None"}),
        json.dumps({"person1": GOOD, "cat": "None"}),
        "```\n" + json.dumps({"cat": " None ", "person7": GOOD}, indent=2) + "```",
        fenced({"person1": {"bbox": "<1><36><987><984>", "keypoints": PLACES}, "cat": "None"}),
        fenced({"person": GOOD, "cat": "None"}),
    ],
)
def test_spaces_numbers_and_the_fence_are_free(codec: Codec, text: str) -> None:
    shapes = read(codec, text)
    assert (shapes.labels, shapes.absent, shapes.faults) == (("person",), ("cat",), ())
    assert shapes.bins_NK.tolist() == [ROW]
    (thing,) = objects_of(shapes, TASK, (999, 999))
    assert thing.bbox == (1.0, 36.0, 987.0, 984.0)
    assert thing.keypoints is not None
    assert {name: xy for name, xy in thing.keypoints.items() if xy} == {"nose": (540.0, 351.0)}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in PLACES.items() if key != name}


@pytest.mark.parametrize(
    ("instance", "faults"),
    [
        (GOOD | {"keypoints": without("left hip")}, {"bad_keypoint"}),
        (GOOD | {"keypoints": PLACES | {"tail": " <1> <2> "}}, {"bad_keypoint"}),
        (GOOD | {"keypoints": PLACES | {"left hip": " <1> "}}, {"bad_keypoint"}),
        (GOOD | {"keypoints": PLACES | {"left hip": " <1> <2> <3> "}}, {"bad_keypoint"}),
        (GOOD | {"keypoints": PLACES | {"left hip": "somewhere"}}, {"bad_keypoint"}),
        (GOOD | {"keypoints": PLACES | {"left hip": " <1> <2> x"}}, {"bad_keypoint"}),
        (GOOD | {"bbox": " <987> <36> <1> <984> "}, {"swapped_corners"}),
        (GOOD | {"bbox": " <1> <36> <1> <984> "}, {"zero_area"}),
        (GOOD | {"score": " <1> "}, {"bad_keypoint", "broken_segment"}),
        ({"keypoints": PLACES, "bbox": GOOD["bbox"]}, {"broken_segment"}),
        ({"bbox": GOOD["bbox"], **PLACES}, {"broken_segment"}),
    ],
)
def test_a_fault_is_named_and_the_instance_stays(codec: Codec, instance: object, faults: set[str]) -> None:
    shapes = read(codec, fenced({"person1": GOOD, "person2": instance, "person3": GOOD}))
    assert set(shapes.faults) == faults
    assert len(shapes.labels) == 3
    assert shapes.bins_NK[[0, 2]].tolist() == [ROW, ROW]
    assert shapes.bins_NK[1, 4:6].tolist() == [540, 351]


BAD = [
    '"person2": {"bbox": " <1> <2> <3> ", "keypoints": {"nose": " <9> <9> "}}',
    '"person2": {"keypoints": {"nose": " <9> <9> "}}',
    '"person2": {"bbox": " <1> <2> <3> <4> <5> ',
    '"person2": {"bbox: <1> <2> <3> <4> ", "keypoints": {"nose: <9> <9> "}',
    '"person2": {}',
    '"person2": [" <1> <2> <3> <4> "]',
    '"person2"',
    "person2: {<1> <2> <3> <4>}}}",
    '"pers',
    "<|box_start|><1><2><3><4><|box_end|>",
]


@pytest.mark.parametrize("bad", BAD)
def test_a_broken_instance_does_not_touch_the_next(codec: Codec, bad: str) -> None:
    good = json.dumps(GOOD)
    shapes = read(codec, f'```json\n{{"person1": {good}, {bad}, "person3": {good}}}\n```')
    assert shapes.faults
    assert shapes.bins_NK.tolist() == [ROW, ROW]
    assert shapes.labels == ("person", "person")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", {"broken_segment"}),
        ("None", {"broken_segment", "stray_tokens"}),
        ("{}", set()),
        ("[]", {"broken_segment", "stray_tokens"}),
        ("Here it is: " + fenced({"person1": GOOD}), {"stray_tokens"}),
        (fenced({"owl1": GOOD}), {"unknown_label"}),
        (fenced({"owl": "None"}), {"unknown_label"}),
        (fenced({"owl": "gone"}), {"bad_keypoint", "broken_segment"}),
        (fenced({"person1": GOOD, "person": "None"}), {"repeated_label"}),
        (fenced({"person1": GOOD})[:-4].replace("}}}", "}}"), {"broken_segment"}),
        (fenced({"a": "b"}).replace('"b"', json.dumps({"person1": GOOD})), {"broken_segment", "bad_count"}),
    ],
)
def test_what_is_outside_the_form_is_named(codec: Codec, text: str, faults: set[str]) -> None:
    assert set(read(codec, text).faults) == faults


def test_an_instance_named_twice_is_repeated(codec: Codec) -> None:
    twice = fenced({"person1": GOOD, "person2": GOOD}).replace("person2", "person1")
    assert read(codec, twice).faults == ("repeated_label",)
    assert len(read(codec, twice).labels) == 2


def test_a_cut_answer_keeps_its_whole_instances(codec: Codec) -> None:
    """At every place: the instances that were whole, no fault but the cut, spans in order inside the answer."""
    tokens = codec._vocabulary.encode(fenced({"person1": GOOD, "person2": GOOD}))
    counts = []
    for end in range(len(tokens)):
        shapes = codec.decode(tokens[:end], task=TASK, categories=("person",))
        assert shapes.faults == ("truncated",)
        assert shapes.bins_NK.tolist() == [ROW] * len(shapes.labels)
        assert (shapes.spans_N2 <= end).all()
        counts.append(len(shapes.labels))
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}


def test_spans_cover_an_instance_and_what_comes_before_it(codec: Codec, vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode(fenced({"person1": GOOD, "person2": GOOD}))
    spans = codec.decode(tokens, task=TASK, categories=("person",)).spans_N2
    first, second = (vocabulary.decode(tokens[start:end]) for start, end in spans)
    assert "person1" in '"' + first
    assert "person2" in second
    assert spans[0, 1] == spans[1, 0]
    assert first.count("bbox") == second.count("bbox") == 1


def test_numbers_spelled_as_text_are_no_coordinates(codec: Codec, vocabulary: Vocabulary) -> None:
    """`<`, `1`, `>` as three tokens look the same in text; ids tell them apart."""
    spelled = [token for letter in "<1>" for token in vocabulary.encode(letter)]
    real = vocabulary.encode("<1>")
    tokens = vocabulary.encode(fenced({"person1": GOOD}) + "<|im_end|>")
    at = tokens.index(real[0])
    shapes = codec.decode([*tokens[:at], *spelled, *tokens[at + 1 :]], task=TASK, categories=("person",))
    assert (len(shapes.labels), shapes.faults) == (0, ("bad_count",))


@pytest.mark.parametrize("category", ['the "red" one', "café", "cafe\u0301 ", "back\\slash", "mp3", "tab\there", "猫"])
def test_any_category_reads_as_asked(codec: Codec, category: str) -> None:
    seen = dict.fromkeys(NAMES, (5.0, 5.0))
    things = [Object(label=category, bbox=(1.0, 1.0, 9.0 + i, 9.0), keypoints=seen) for i in range(11)]
    record = record_of("keypoint_person", *things, categories=(category, "mp"))
    shapes = codec.decode(codec.encode(record, record.categories), task=TASK, categories=record.categories)
    assert (shapes.labels, shapes.absent, shapes.faults) == ((category,) * 11, ("mp",), ())


@given(st.text('{}":, \\<>`0aebbox\n', max_size=300))
@examples(2)
def test_no_text_makes_it_raise(codec: Codec, text: str) -> None:
    read(codec, text)


def test_no_text_takes_long(codec: Codec, vocabulary: Vocabulary) -> None:
    """Long runs of what the patterns look for: as many tokens as an answer can have, in well under a second."""
    import time

    for piece in ('"', '\\"', '"a":', '{"', '"": {', '{"a":', " ", "<1>", '"a": "', "}", "```json"):
        tokens = (vocabulary.encode(piece) * 9000)[:9000]
        start = time.perf_counter()
        codec.decode(tokens, task=TASK, categories=("person",))
        codec.decode([*tokens, vocabulary.answer_end_id], task=TASK, categories=("person",))
        codec.decode([*tokens, *vocabulary.encode("x"), vocabulary.answer_end_id], task=TASK, categories=("person",))
        assert time.perf_counter() - start < 2
