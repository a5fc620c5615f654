"""Reading answers: nothing a model writes makes it raise, every fault is named; no fault means the grammar holds."""

import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rex_rl.language.answer_reader import FAULTS
from rex_rl.language.codec import Codec
from rex_rl.language.tasks import TASKS, Geometry, Task
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.types import Object, Shapes
from tests.support.examples import examples
from tests.support.task_records import record_of
from tests.support.token_reader import read_slowly

CAT = "<|object_ref_start|>cat<|object_ref_end|>"
DOG = "<|object_ref_start|>dog<|object_ref_end|>"
END = "<|im_end|>"
BOX = "<1><2><30><40>"
OF_MEANING = {"swapped_corners", "zero_area", "unknown_label", "repeated_label"}
"""Faults of what is predicted; all others are faults of form."""


def boxed(*shapes: str) -> str:
    return f"<|box_start|>{','.join(shapes)}<|box_end|>"


def read(codec: Codec, text: str, task: str = "detection") -> Shapes:
    """An answer as it stands, without an end token of our own."""
    tokens = codec._vocabulary.encode(text)
    return codec.decode(tokens, task=TASKS[task], categories=("cat", "dog"))


EXAMPLES = {
    "bad_count": CAT + boxed("<1><2><3>", BOX) + END,
    "swapped_corners": CAT + boxed("<30><2><1><40>") + END,
    "zero_area": CAT + boxed("<30><2><30><40>") + END,
    "unknown_label": CAT.replace("cat", "owl") + boxed(BOX) + END,
    "repeated_label": CAT + boxed(BOX) + ", " + CAT + boxed("<5><6><7><8>") + END,
    "broken_segment": CAT + boxed() + END,
    "stray_tokens": "Here is a cat: " + CAT + boxed(BOX) + END,
    "truncated": CAT + boxed(BOX),
}


@pytest.mark.parametrize(("fault", "text"), EXAMPLES.items())
def test_each_fault_is_named(codec: Codec, fault: str, text: str) -> None:
    """One example each, with that fault alone."""
    assert read(codec, text).faults == (fault,)


def test_an_undefined_id_is_named_and_skipped(codec: Codec, vocabulary: Vocabulary) -> None:
    """Rows above the tokenizer's last id can be sampled; the official decoder crashes on them."""
    for undefined in (vocabulary.size, 151_935, 2**40, -1):
        tokens = vocabulary.encode(CAT + boxed(BOX) + END)
        tokens.insert(6, undefined)
        shapes = codec.decode(tokens, task=TASKS["detection"], categories=("cat",))
        assert shapes.faults == ("undefined_id",)
        assert shapes.bins_NK.tolist() == [[1, 2, 30, 40]]


def test_every_fault_has_an_example() -> None:
    """Those of key points are in test_keypoint_reader.py."""
    assert {*EXAMPLES, "undefined_id", "bad_keypoint"} == set(FAULTS)


@pytest.mark.parametrize(
    "text",
    [
        f"{CAT}{boxed(BOX, BOX)}, {DOG}{boxed('None')}{END}",
        f" {CAT} <|box_start|> <1> <2> <30> <40> , <1> <2> <30> <40> <|box_end|> , {DOG} {boxed(' None ')} {END}",
        f"{CAT}\n{boxed(BOX, BOX)},{DOG}{boxed(' None')}{END}",
    ],
)
def test_spaces_between_special_tokens_change_nothing(codec: Codec, text: str) -> None:
    """vLLM's text of the released model has spaces, its token ids may not; both must read alike."""
    shapes = read(codec, text)
    assert (shapes.labels, shapes.absent, shapes.faults) == (("cat", "cat"), ("dog",), ())
    assert shapes.bins_NK.tolist() == [[1, 2, 30, 40]] * 2


@pytest.mark.parametrize("label", ["a, b", 'the "red" one', "text line", "C'est <3", "None"])
def test_labels_may_hold_anything_but_special_tokens(codec: Codec, label: str) -> None:
    text = CAT.replace("cat", label) + boxed(BOX) + END
    shapes = codec.decode_text(text, task=TASKS["detection"], categories=(label,))
    assert (shapes.labels, shapes.faults) == ((label,), ())


@pytest.mark.parametrize("bad", ["<1>", "<1><2>", "<1><2><3>", "<1><2><3><4><5>", BOX + BOX])
def test_a_bad_shape_does_not_shift_the_next(codec: Codec, bad: str) -> None:
    shapes = read(codec, CAT + boxed("<5><6><7><8>", bad, BOX) + END)
    assert shapes.bins_NK.tolist() == [[5, 6, 7, 8], [1, 2, 30, 40]]
    assert shapes.faults == ("bad_count",)


def test_a_bad_shape_does_not_leak_into_the_next_segment(codec: Codec) -> None:
    """Neither when the segment is closed nor when its end delimiter is missing."""
    for end in ("<|box_end|>, ", ""):
        shapes = read(codec, f"{CAT}<|box_start|><1><2>{end}{DOG}{boxed(BOX)}{END}")
        assert (shapes.labels, shapes.bins_NK.tolist()) == (("dog",), [[1, 2, 30, 40]])


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (boxed(BOX) + END, {"broken_segment", "unknown_label"}),  # shapes of nothing
        (CAT + boxed(BOX) + boxed("<5><6><7><8>") + END, {"broken_segment"}),  # a second segment without a phrase
        (CAT + END, {"broken_segment"}),
        (CAT + DOG + boxed(BOX) + END, {"broken_segment"}),
        (CAT + "<|box_start|>" + BOX + END, {"broken_segment"}),
        (CAT + boxed("cat") + END, {"broken_segment"}),
        (CAT + boxed(BOX, "") + END, {"stray_tokens"}),
        (CAT + boxed("", BOX) + END, {"stray_tokens"}),
        (CAT + boxed("None", BOX) + END, {"stray_tokens"}),
        (CAT + boxed("None" + BOX) + END, {"stray_tokens"}),
        (CAT + boxed(BOX + " cat") + END, {"stray_tokens"}),
        (CAT + BOX + END, {"broken_segment", "stray_tokens"}),
        ("<|object_ref_end|><|box_end|>" + CAT + boxed(BOX) + END, {"stray_tokens"}),
        ("", {"truncated"}),
        (END, set()),
    ],
)
def test_what_is_outside_the_grammar_is_named(codec: Codec, text: str, faults: set[str]) -> None:
    assert set(read(codec, text).faults) == faults


def test_what_follows_the_end_is_not_read(codec: Codec) -> None:
    """Nor does it lengthen the span of a shape that the end cut short."""
    shapes = read(codec, f"{CAT}<|box_start|>{BOX}{END}{CAT}{boxed(BOX)}")
    assert np.diff(shapes.spans_N2).tolist() == [[5]]


def test_an_answer_cut_behind_a_whole_box_keeps_it(codec: Codec) -> None:
    shapes = read(codec, f"{CAT}<|box_start|>{BOX},{BOX}")
    assert (len(shapes.labels), shapes.faults) == (2, ("truncated",))


def test_points_take_two_numbers(codec: Codec) -> None:
    shapes = read(codec, CAT + boxed("<1><2>", BOX, "<2><1>") + END, "pointing")
    assert (shapes.bins_NK.tolist(), shapes.faults) == ([[1, 2], [2, 1]], ("bad_count",))


PIECES = {
    "R": "<|object_ref_start|>",
    "r": "<|object_ref_end|>",
    "B": "<|box_start|>",
    "b": "<|box_end|>",
    "E": END,
    "c": "<7>",
    ",": ",",
    "N": "None",
    "w": "cat",
    " ": " ",
}
GRAMMAR = re.compile(r"[, ]*(R[Nw, ]*r *B *( *N *|(c *){4}(, *(c *){4})*)b[, ]*)*E")
"""The grammar of codec.py over the pieces, as loose as FAULTS says, written a second time."""
WELL_FORMED = ("RwrBccccbE", "RwrBcccc,ccccb, RwrBNbE", "RwrB cccc , cccc bE", "RNrBNbE", "E")


@st.composite
def mutated_answers(draw: st.DrawFn) -> str:
    """A well-formed answer with a few pieces put in, taken out or exchanged."""
    pieces = list(draw(st.sampled_from(WELL_FORMED)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(pieces)))
        pieces[at : at + draw(st.integers(0, 1))] = draw(st.lists(st.sampled_from(list(PIECES)), max_size=1))
    return "".join(pieces)


@given(mutated_answers())
@examples(3)
def test_an_answer_without_a_fault_of_form_follows_the_grammar(
    codec: Codec, vocabulary: Vocabulary, predicted: str
) -> None:
    """And one with such a fault does not: the format term has no hole."""
    tokens = [token for piece in predicted for token in vocabulary.encode(PIECES[piece])]
    faults = codec.decode(tokens, task=TASKS["detection"], categories=("cat", "")).faults
    follows = GRAMMAR.fullmatch(predicted[: predicted.find("E") + 1] or predicted) is not None
    assert (not set(faults) - OF_MEANING) == follows, (predicted, faults)


SEGMENTED = [task for task in TASKS.values() if task.geometry is not Geometry.KEYPOINTS]
CATEGORIES = ("cat", "dog")


def require_same(vocabulary: Vocabulary, codec: Codec, tokens: list[int], task: Task) -> None:
    """The codec reads what the state machine reads."""
    categories = CATEGORIES[:1] if task.is_single else CATEGORIES
    shapes = codec.decode(tokens, task=task, categories=categories)
    labels, rows, spans, faults, absent = read_slowly(vocabulary, tokens, task=task, categories=categories)
    assert (list(shapes.labels), set(shapes.faults), list(shapes.absent)) == (labels, faults, absent)
    assert shapes.spans_N2.tolist() == spans
    predicted = [row[: len(true)] for row, true in zip(shapes.bins_NK.tolist(), rows, strict=True)]
    assert predicted == rows
    for row, true in zip(shapes.bins_NK.tolist(), rows, strict=True):
        assert row[len(true) :] == true[-2:] * ((len(row) - len(true)) // 2)


@pytest.mark.parametrize("task", SEGMENTED, ids=lambda task: task.name)
@given(predicted=mutated_answers() | st.text("RrBbcc,N wE?", max_size=40))
@example(predicted="BNbE")
@examples(0.6)
def test_the_reader_agrees_with_the_state_machine(
    codec: Codec, vocabulary: Vocabulary, task: Task, predicted: str
) -> None:
    """On broken answers made of the grammar's pieces, undefined ids among them."""
    pieces = {**PIECES, "?": ""}
    ids = [[vocabulary.size + 3] if piece == "?" else vocabulary.encode(pieces[piece]) for piece in predicted]
    require_same(vocabulary, codec, [token for part in ids for token in part], task)


@given(st.lists(st.integers(-3, 2**40) | st.integers(0, 1600), max_size=60), st.sampled_from(SEGMENTED))
@examples(1)
def test_random_ids_never_raise(codec: Codec, vocabulary: Vocabulary, tokens: list[int], task: Task) -> None:
    require_consistent(codec.decode(tokens, task=task, categories=("cat",)), len(tokens), task)
    require_same(vocabulary, codec, tokens, task)


def true_answers(codec: Codec) -> list[tuple[Task, np.ndarray]]:
    """One real answer of about fifty tokens a task."""
    found = []
    for task in TASKS.values():
        num = {Geometry.POINT: 14, Geometry.BOX: 8, Geometry.POLYGON: 5, Geometry.KEYPOINTS: 1}[task.geometry]
        seen: dict[str, tuple[float, float] | None] = {
            name: (5.0, 6.0) if place % 2 else None for place, name in enumerate(task.keypoints)
        }
        things = [
            Object(
                label=f"t{i % 3}" if task.reads_text else "cat",
                bbox=(90.0 * i, 5.0, 90.0 * i + 80.0, 600.0),
                polygon=((90.0 * i, 5.0), (90.0 * i + 80.0, 5.0), (90.0 * i + 80.0, 60.0)),
                keypoints=seen or None,
            )
            for i in range(num)
        ]
        found.append((task, codec.encode(record_of(task.name, *things), task.choices[:1] or ("cat",))))
    return found


def fuzz(rng: np.random.Generator, codec: Codec, vocabulary: Vocabulary, num: int) -> Iterator[tuple[Task, np.ndarray]]:
    """Random ids, and true answers with ids exchanged, dropped, repeated and cut: `num` of them, tasks in turn."""
    answers = true_answers(codec)
    for place in range(num):
        task, answer_T = answers[place % len(answers)]
        if place % 3 == 0:
            yield task, rng.integers(0, vocabulary.size + 20, int(rng.integers(0, 100)))
            continue
        tokens_T = answer_T.copy()
        num_changed = int(rng.integers(1, 6))
        tokens_T[rng.integers(0, tokens_T.size, num_changed)] = rng.integers(0, vocabulary.size + 20, num_changed)
        tokens_T = np.delete(tokens_T, rng.integers(0, tokens_T.size, int(rng.integers(0, 4))))
        tokens_T = np.repeat(tokens_T, rng.choice([1, 1, 1, 1, 1, 1, 2], tokens_T.size))
        yield task, tokens_T[: int(rng.integers(1, 400))]


def test_mutated_answers_never_raise(codec: Codec, vocabulary: Vocabulary) -> None:
    """A short form of the soak test, with a look at what was decoded."""
    for task, tokens_T in fuzz(np.random.default_rng(0), codec, vocabulary, 1500):
        shapes = codec.decode(tokens_T, task=task, categories=("cat",))
        require_consistent(shapes, tokens_T.size, task)
        if task.geometry is not Geometry.KEYPOINTS:
            require_same(vocabulary, codec, tokens_T.tolist(), task)


@pytest.mark.soak
def test_a_million_broken_answers(codec: Codec, vocabulary: Vocabulary) -> None:
    """No exception and no hang, in groups of eight as training decodes them; the time an answer is printed."""
    num, spent_s, longest_s = 1_000_000, 0.0, 0.0
    waiting: dict[str, list[np.ndarray]] = {name: [] for name in TASKS}
    for task, tokens_T in fuzz(np.random.default_rng(1), codec, vocabulary, num):
        group = waiting[task.name]
        group.append(tokens_T)
        if len(group) == 8:
            start = time.process_time()
            decoded = codec.decode_group(group, task=task, categories=("cat",))
            took_s = time.process_time() - start
            spent_s, longest_s = spent_s + took_s, max(longest_s, took_s)
            for shapes, answer_T in zip(decoded, group, strict=True):
                require_consistent(shapes, answer_T.size, task)
            group.clear()
    print(f"{1e6 * spent_s / num:.1f} us an answer, {1e3 * longest_s:.1f} ms the longest group")
    assert longest_s < 1.0


def test_decoding_takes_microseconds(codec: Codec, vocabulary: Vocabulary) -> None:
    """Twenty for an answer of fifty tokens on a core of one's own, broken or not; 45 to 84 with busy neighbours."""
    groups: dict[str, list[np.ndarray]] = {}
    for task, tokens_T in fuzz(np.random.default_rng(2), codec, vocabulary, 2000):
        if task.geometry is Geometry.BOX and not task.reads_text:
            groups.setdefault(task.name, []).append(tokens_T[:50])

    def seconds() -> float:
        start = time.process_time()
        for name, tokens_G in groups.items():
            for at in range(0, len(tokens_G), 8):
                codec.decode_group(tokens_G[at : at + 8], task=TASKS[name], categories=("cat",))
        return (time.process_time() - start) / sum(map(len, groups.values()))

    assert min(seconds() for _ in range(5)) < 120e-6


def require_consistent(shapes: Shapes, num_tokens: int, task: Task) -> None:
    """Parts belong together; spans are in order, apart, and inside the answer."""
    num_shapes, width = shapes.bins_NK.shape
    assert num_shapes == len(shapes.labels)
    if task.num_numbers is None:
        assert width >= 6
        assert width % 2 == 0
    else:
        assert width == task.num_numbers
    assert shapes.bins_NK.dtype == shapes.spans_N2.dtype == np.int64
    assert shapes.spans_N2.shape == (num_shapes, 2)
    lowest = -1 if task.geometry is Geometry.KEYPOINTS else 0
    assert ((shapes.bins_NK >= lowest) & (shapes.bins_NK <= 999)).all()
    flat = shapes.spans_N2.ravel()
    assert (np.diff(flat) >= 0).all()
    assert ((flat >= 0) & (flat <= num_tokens)).all()
    assert (np.diff(shapes.spans_N2, axis=1) > min(width, 4) - 1).all()
    assert set(shapes.faults) <= set(FAULTS)
    assert list(shapes.faults) == sorted(shapes.faults)
