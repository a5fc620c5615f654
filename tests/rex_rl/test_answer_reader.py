"""Reading answers: nothing a model says makes it raise, every fault is named, and no fault means the grammar holds."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rex_rl.answer_reader import FAULTS
from rex_rl.codec import Codec
from rex_rl.tasks import Geometry
from rex_rl.types import Shapes
from rex_rl.vocabulary import Vocabulary
from tests import fakes

CAT = "<|object_ref_start|>cat<|object_ref_end|>"
DOG = "<|object_ref_start|>dog<|object_ref_end|>"
END = "<|im_end|>"
BOX = "<1><2><30><40>"
OF_MEANING = {"swapped_corners", "zero_area", "unknown_label", "repeated_label"}
"""Faults of what is said; all others are faults of form."""


def boxed(*shapes: str) -> str:
    return f"<|box_start|>{','.join(shapes)}<|box_end|>"


def read(codec: Codec, text: str, geometry: Geometry = Geometry.BOX) -> Shapes:
    """An answer as it stands, without an end token of our own."""
    tokens = codec._vocabulary.encode(text)
    return codec.decode(tokens, geometry=geometry, categories=("cat", "dog"))


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
        shapes = codec.decode(tokens, geometry=Geometry.BOX, categories=("cat",))
        assert shapes.faults == ("undefined_id",)
        assert shapes.bins_NK.tolist() == [[1, 2, 30, 40]]


def test_every_fault_has_an_example() -> None:
    assert {*EXAMPLES, "undefined_id"} == set(FAULTS)


@pytest.mark.parametrize(
    "text",
    [
        f"{CAT}{boxed(BOX, BOX)}, {DOG}{boxed('None')}{END}",
        f" {CAT} <|box_start|> <1> <2> <30> <40> , <1> <2> <30> <40> <|box_end|> , {DOG} {boxed(' None ')} {END}",
        f"{CAT}\n{boxed(BOX, BOX)},{DOG}{boxed(' None')}{END}",
    ],
)
def test_spaces_between_special_tokens_change_nothing(codec: Codec, text: str) -> None:
    """vLLM's text of the released model holds them; its token ids may not, and both must read alike."""
    shapes = read(codec, text)
    assert (shapes.labels, shapes.absent, shapes.faults) == (("cat", "cat"), ("dog",), ())
    assert shapes.bins_NK.tolist() == [[1, 2, 30, 40]] * 2


@pytest.mark.parametrize("label", ["a, b", 'the "red" one', "text line", "C'est <3", "None"])
def test_labels_may_hold_anything_but_marks(codec: Codec, label: str) -> None:
    text = CAT.replace("cat", label) + boxed(BOX) + END
    shapes = codec.decode_text(text, geometry=Geometry.BOX, categories=(label,))
    assert (shapes.labels, shapes.faults) == ((label,), ())


@pytest.mark.parametrize("bad", ["<1>", "<1><2>", "<1><2><3>", "<1><2><3><4><5>", BOX + BOX])
def test_a_bad_shape_does_not_shift_the_next(codec: Codec, bad: str) -> None:
    shapes = read(codec, CAT + boxed("<5><6><7><8>", bad, BOX) + END)
    assert shapes.bins_NK.tolist() == [[5, 6, 7, 8], [1, 2, 30, 40]]
    assert shapes.faults == ("bad_count",)


def test_a_bad_shape_does_not_leak_into_the_next_segment(codec: Codec) -> None:
    """Neither when the segment is closed nor when its end mark is missing."""
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
    shapes = read(codec, CAT + boxed("<1><2>", BOX, "<2><1>") + END, Geometry.POINT)
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
@settings(max_examples=300, deadline=None)
def test_an_answer_without_a_fault_of_form_follows_the_grammar(codec: Codec, vocabulary: Vocabulary, said: str) -> None:
    """And one with such a fault does not: the format term has no hole."""
    tokens = [token for piece in said for token in vocabulary.encode(PIECES[piece])]
    faults = codec.decode(tokens, geometry=Geometry.BOX, categories=("cat", "")).faults
    follows = GRAMMAR.fullmatch(said[: said.find("E") + 1] or said) is not None
    assert (not set(faults) - OF_MEANING) == follows, (said, faults)


@given(st.lists(st.integers(-3, 2**40) | st.integers(0, 1600), max_size=60), st.sampled_from(Geometry))
@settings(max_examples=300, deadline=None)
def test_random_ids_never_raise(codec: Codec, tokens: list[int], geometry: Geometry) -> None:
    require_consistent(codec.decode(tokens, geometry=geometry, categories=("cat",)), len(tokens), geometry)


def test_mutated_answers_never_raise(codec: Codec, vocabulary: Vocabulary) -> None:
    """A short form of the soak test: true answers with ids exchanged, dropped and repeated."""
    rng = np.random.default_rng(0)
    answer_T = codec.encode(fakes.record(boxes=9), ("dog", "cat"))
    for _ in range(3000):
        tokens = answer_T.copy()
        num = int(rng.integers(1, 6))
        tokens[rng.integers(0, tokens.size, num)] = rng.integers(0, vocabulary.size + 20, num)
        tokens = np.delete(tokens, rng.integers(0, tokens.size, int(rng.integers(0, 4))))
        tokens = np.repeat(tokens, rng.choice([1, 1, 1, 2], tokens.size))[: int(rng.integers(1, 80))]
        require_consistent(
            codec.decode(tokens, geometry=Geometry.BOX, categories=("cat", "dog")), tokens.size, Geometry.BOX
        )


def require_consistent(shapes: Shapes, num_tokens: int, geometry: Geometry) -> None:
    """Parts belong together; spans are in order, apart, and inside the answer."""
    num_shapes = len(shapes.labels)
    assert shapes.bins_NK.shape == (num_shapes, geometry.value)
    assert shapes.spans_N2.shape == (num_shapes, 2)
    assert ((shapes.bins_NK >= 0) & (shapes.bins_NK <= 999)).all()
    flat = shapes.spans_N2.ravel()
    assert (np.diff(flat) >= 0).all()
    assert ((flat >= 0) & (flat <= num_tokens)).all()
    assert (np.diff(shapes.spans_N2, axis=1) > geometry.value).all()
    assert set(shapes.faults) <= set(FAULTS)
    assert list(shapes.faults) == sorted(shapes.faults)
