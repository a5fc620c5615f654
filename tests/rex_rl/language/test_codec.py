"""The codec: what is written can be read back, on the grid and in real tokens."""

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rex_rl.language.codec import Codec, encode_answer, truth_on_grid
from rex_rl.language.grid import GRID_STEPS, dequantise, geometry_of, quantise
from rex_rl.language.tasks import TASKS, Geometry
from rex_rl.language.vocabulary import BOX_END, BOX_START, OBJECT_END, OBJECT_START, Vocabulary
from rex_rl.shapes.tiny import default_tokenizer
from rex_rl.types import Object, Record, Shapes
from tests.support import fakes
from tests.support.examples import examples

Box = tuple[float, float, float, float]

SIDES = st.integers(1, 5000)
SHARES = st.floats(0, 1)


def record_of(objects: Sequence[tuple[str, Box]], *, size: tuple[int, int] = (1000, 1000)) -> Record:
    things = tuple(Object(label=label, bbox=box) for label, box in objects)
    labels = tuple(dict.fromkeys(label for label, _ in objects))
    return Record(
        id="a",
        image="/a.png",
        task="detection",
        categories=labels,
        objects=things,
        width=size[0],
        height=size[1],
        source="a.jsonl:1",
    )


def decode(codec: Codec, record: Record, categories: Sequence[str]) -> Shapes:
    return codec.decode(codec.encode(record, categories), task=TASKS[record.task], categories=record.categories)


@st.composite
def sized_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    """An image size and a box with area anywhere in it, however small."""
    size = draw(SIDES), draw(SIDES)
    corners = []
    for side in size:
        low = draw(SHARES) * side
        high = draw(st.one_of(st.floats(0, 2), st.floats(0, side))) + low
        high = min(high, float(side))
        corners.append((low, high) if low < high else (side * 0.5, side * 0.5 + 1e-6))
    (x0, x1), (y0, y1) = corners
    return size, (x0, y0, x1, y1)


@given(sized_boxes())
@examples(2)
def test_a_box_keeps_its_area_and_moves_by_half_a_bin(case: tuple[tuple[int, int], Box]) -> None:
    """Every side lands within half a bin of its place; only a box thinner than a bin has one side a bin further."""
    size, box = case
    bins_4 = quantise(np.array([box]), size)[0]
    assert bins_4.min() >= 0
    assert bins_4.max() <= GRID_STEPS
    assert (bins_4[:2] < bins_4[2:]).all()
    error_4 = np.abs(dequantise(bins_4[None], size)[0] - box) / np.resize(size, 4) * GRID_STEPS
    for near, far in ((0, 2), (1, 3)):
        assert sorted(error_4[[near, far]])[0] <= 0.5 + 1e-6
        thin = (box[far] - box[near]) / size[near] * GRID_STEPS <= 1 + 1e-6
        assert error_4[[near, far]].max() <= (1.5 if thin else 0.5) + 1e-6


@pytest.mark.parametrize(
    ("box", "bins"),
    [
        ((99.99, 79.99, 100.0, 80.0), [998, 998, 999, 999]),  # in the last bin the near side moves
        ((0.0, 0.0, 0.01, 0.01), [0, 0, 1, 1]),
        ((50.0, 79.98, 50.01, 80.0), [500, 998, 501, 999]),
    ],
)
def test_a_box_in_one_bin_is_widened_inwards(box: Box, bins: list[int]) -> None:
    assert quantise(np.array([box]), (100, 80)).tolist() == [bins]


@given(SIDES, SIDES, SHARES, SHARES)
def test_a_point_moves_by_half_a_bin(width: int, height: int, across: float, down: float) -> None:
    point_12 = np.array([[across * width, down * height]])
    error_12 = np.abs(dequantise(quantise(point_12, (width, height)), (width, height)) - point_12)
    assert (error_12 <= 0.5 / GRID_STEPS * np.array([width, height]) + 1e-9).all()


@given(st.lists(st.integers(0, GRID_STEPS), min_size=4, max_size=4), SIDES, SIDES)
def test_what_is_on_the_grid_stays_there(bins: list[int], width: int, height: int) -> None:
    """Quantising the pixels of a bin gives the bin: a perfect answer is a perfect answer."""
    x0, y0, x1, y1 = bins
    bins_14 = np.array([[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]])
    bins_14[:, 2:] += bins_14[:, :2] == bins_14[:, 2:]
    if bins_14.max() <= GRID_STEPS:
        assert (quantise(dequantise(bins_14, (width, height)), (width, height)) == bins_14).all()


def test_a_perfect_target_of_20_px_overlaps_its_box_by_95_percent() -> None:
    """Rounding over 999 gives a mean IoU of 0.951 at 1,000 px; the official floor gives 0.905."""
    rng = np.random.default_rng(0)
    corners_N2 = rng.uniform(0, 980, size=(2000, 2))
    boxes_N4 = np.concatenate([corners_N2, corners_N2 + 20], axis=1)
    predicted_N4 = dequantise(quantise(boxes_N4, (1000, 1000)), (1000, 1000))
    overlap_N2 = np.minimum(boxes_N4[:, 2:], predicted_N4[:, 2:]) - np.maximum(boxes_N4[:, :2], predicted_N4[:, :2])
    overlap_N = overlap_N2.prod(axis=1)
    iou_N = overlap_N / (400 + (predicted_N4[:, 2:] - predicted_N4[:, :2]).prod(axis=1) - overlap_N)
    assert iou_N.mean() == pytest.approx(0.951, abs=0.004)


def test_pixels_outside_are_pulled_in() -> None:
    """Records may overhang by a pixel."""
    assert quantise(np.array([[-1.0, -1.0, 101.0, 81.0]]), (100, 80)).tolist() == [[0, 0, 999, 999]]


def test_shapes_are_written_by_ascending_x0_and_ties_as_annotated() -> None:
    boxes = [(500.0, 0.0, 600.0, 50.0), (10.0, 700.0, 60.0, 800.0), (10.0, 100.0, 60.0, 200.0), (0.0, 1.0, 9.0, 9.0)]
    text = encode_answer(record_of([("cat", box) for box in boxes]), ("cat",))
    assert text == (
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>"
        "<0><1><9><9>,<10><699><60><799>,<10><100><60><200>,<500><0><599><50><|box_end|>"
    )


def test_crowded_columns_keep_the_annotations_order() -> None:
    """Three columns of about 40 whose x0 tie, mixed in the annotation: within each the order is the annotation's."""
    rng = np.random.default_rng(0)
    corners = list(zip(rng.choice([10.0, 300.0, 700.0], 120), rng.permutation(120) * 8.0, strict=True))
    text = encode_answer(record_of([("cat", (x, y, x + 9, y + 5)) for x, y in corners]), ("cat",))
    written = re.findall(r"<(\d+)><(\d+)><\d+><\d+>", text)
    grid = [tuple(quantise(np.array([corner]), (1000, 1000))[0].tolist()) for corner in corners]
    assert [(int(x), int(y)) for x, y in written] == sorted(grid, key=lambda corner: corner[0])


def test_categories_come_in_the_order_asked_and_absent_ones_are_none(codec: Codec) -> None:
    record = record_of([("cat", (0.0, 0.0, 999.0, 999.0)), ("dog", (1.0, 1.0, 500.0, 500.0))], size=(999, 999))
    text = encode_answer(record, ("dog", "owl", "cat"))
    assert text == (
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|><1><1><500><500><|box_end|>, "
        "<|object_ref_start|>owl<|object_ref_end|><|box_start|>None<|box_end|>, "
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|><0><0><999><999><|box_end|>"
    )
    shapes = codec.decode_text(text, task=TASKS["detection"], categories=("dog", "owl", "cat"))
    assert (shapes.labels, shapes.absent, shapes.faults) == (("dog", "cat"), ("owl",), ())


def test_points_come_back(codec: Codec) -> None:
    record = fakes.record(boxes=3, task="pointing")
    shapes = decode(codec, record, ("dog", "cat"))
    assert shapes.bins_NK.tolist() == [[0, 62], [100, 62], [200, 62]]
    assert (shapes.labels, shapes.absent, shapes.faults) == (("cat",) * 3, ("dog",), ())


@given(st.lists(st.tuples(st.sampled_from(["red circle", "blue square", "cat, sitting"]), sized_boxes()), max_size=12))
def test_an_encoded_answer_decodes_to_the_truth(
    codec: Codec, vocabulary: Vocabulary, drawn: list[tuple[str, tuple[object, Box]]]
) -> None:
    """In real tokens: every object once, as it stands on the grid, no fault; spans cover its four coordinates."""
    width, height = 5000, 5000
    record = record_of([(label, box) for label, (_, box) in drawn], size=(width, height))
    truth = truth_on_grid(record)
    tokens_T = codec.encode(record, record.categories or ("owl",))
    shapes = codec.decode(tokens_T, task=TASKS["detection"], categories=record.categories or ("owl",))
    assert shapes.faults == ()
    predicted = sorted(zip(shapes.labels, shapes.bins_NK.tolist(), strict=True))
    assert predicted == sorted(zip(truth.labels, truth.bins_NK.tolist(), strict=True))
    assert shapes.absent == (() if drawn else ("owl",))
    for bins_4, (start, end) in zip(shapes.bins_NK, shapes.spans_N2, strict=True):
        assert (tokens_T[start + 1 : end] - vocabulary.first_coordinate_id).tolist() == bins_4.tolist()


def test_spans_cover_a_shape_and_the_separator_before_it(codec: Codec, vocabulary: Vocabulary) -> None:
    record = record_of([("red circle", (0.0, 0.0, 9.0, 9.0)), ("red circle", (20.0, 0.0, 29.0, 9.0))])
    tokens_T = codec.encode(record, ("red circle",))
    shapes = codec.decode(tokens_T, task=TASKS["detection"], categories=("red circle",))
    covered = [vocabulary.decode(tokens_T[start:end].tolist()) for start, end in shapes.spans_N2]
    assert covered == ["<|box_start|><0><0><9><9>", ",<20><0><29><9>"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ACE]{<0><0><9><9>}, [BE]{<2><0><9><9>}", ["[ACE]{<0><0><9><9>", ", [BE]{<2><0><9><9>"]),
        ("[ACE]{<0><0><9><9>,<5><0><9><9>}", ["[ACE]{<0><0><9><9>", ",<5><0><9><9>"]),
        ("[ACE]{<0><0><9>,<5><0><9><9>}", [",<5><0><9><9>"]),  # the text's own shape is broken
        ("[ACE]{<0><0><9><9>, [BE]{<2><0><9><9>}", ["[ACE]{<0><0><9><9>", "[BE]{<2><0><9><9>"]),
    ],
)
def test_where_tasks_read_text_the_text_is_part_of_the_span(
    codec: Codec, vocabulary: Vocabulary, text: str, expected: list[str]
) -> None:
    """Reading is part of the answer, so the reward of a shape goes to its text too."""
    marks = str.maketrans({"[": OBJECT_START, "]": OBJECT_END, "{": BOX_START, "}": BOX_END})
    tokens = vocabulary.encode(text.translate(marks))
    shapes = codec.decode(tokens, task=TASKS["ocr_box"], categories=("word",))
    covered = [vocabulary.decode(tokens[start:end]) for start, end in shapes.spans_N2]
    assert covered == [one.translate(marks) for one in expected]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
@examples(2)
def test_any_category_reads_as_asked(codec: Codec, category: str) -> None:
    """Whatever normalisation does to a name (NFC, spaces at its ends), shapes come back under the name asked for."""
    assume(category.strip() and not re.search(r"<.*>", category))  # a special token written out is no name
    record = record_of([(category, (0.0, 0.0, 9.0, 9.0))])
    shapes = decode(codec, record, (category,))
    assert (shapes.labels, shapes.faults) == ((category,), ())


def test_decomposed_letters_are_the_category_asked_for(codec: Codec) -> None:
    """Qwen's tokenizer composes them (NFC); a reward that compares texts must not see two labels."""
    asked = "cafe\u0301 "
    assert decode(codec, record_of([(asked, (0.0, 0.0, 9.0, 9.0))]), (asked,)).labels == (asked,)


def test_geometry_of_nothing_has_its_width() -> None:
    assert geometry_of([], Geometry.BOX).shape == (0, 4)
    assert geometry_of([], Geometry.POINT).shape == (0, 2)


def test_decoding_takes_lists_and_arrays_alike(codec: Codec) -> None:
    tokens_T = codec.encode(fakes.record(boxes=2), ("cat", "dog"))
    tokens_T.setflags(write=False)
    one, other = (
        codec.decode(tokens, task=TASKS["detection"], categories=("cat", "dog")) for tokens in (tokens_T, [*tokens_T])
    )
    assert one.bins_NK.tolist() == other.bins_NK.tolist()
    assert one.bins_NK.dtype == one.spans_N2.dtype == np.int64


def test_encoding_ends_with_the_end_token(codec: Codec, vocabulary: Vocabulary) -> None:
    tokens_T = codec.encode(fakes.record(), ("cat",))
    assert tokens_T[-1] == vocabulary.answer_end_id
    assert tokens_T.dtype == np.int64
    assert vocabulary.decode(tokens_T[:-1].tolist()) == encode_answer(fakes.record(), ("cat",))


def test_a_coordinate_is_one_token(codec: Codec) -> None:
    """A box of a long answer takes five tokens: four numbers and a comma."""
    few, many = (codec.encode(fakes.record(boxes=boxes), ("cat",)).size for boxes in (1, 9))
    assert many - few == 8 * 5


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    """Trained from a fixed corpus: ids, and so seeds and checkpoints, agree between machines."""
    assert default_tokenizer().to_str() == default_tokenizer().to_str()


def test_the_grid_has_its_ends_on_the_image_borders() -> None:
    assert dequantise(np.array([[0, 0, 999, 999]]), (640, 480)).tolist() == [[0, 0, 640, 480]]
    assert math.isclose(dequantise(np.array([[1, 0]]), (999, 1))[0, 0], 1.0)
