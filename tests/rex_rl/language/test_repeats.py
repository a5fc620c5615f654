"""Loops are seen at the token that decides them, however the answer is cut up, and true answers are no loops."""

from collections.abc import Callable
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.language.codec import encode_answer
from rex_rl.language.keypoint_reader import write_keypoints
from rex_rl.language.repeats import NEAR_BINS, RepeatWatch
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import BOX_END, BOX_START, OBJECT_END, OBJECT_START, Vocabulary
from tests.support import fakes

Shape = tuple[int, ...]
FOUND = (10, 20, 30, 40)
NEAR = (10, 20, 30 + NEAR_BINS, 40 - NEAR_BINS)
OTHER = (10, 20, 30 + NEAR_BINS + 1, 40)


def segment(label: str, *shapes: Shape) -> str:
    predicted = ",".join("".join(f"<{value}>" for value in shape) for shape in shapes)
    return f"{OBJECT_START}{label}{OBJECT_END}{BOX_START}{predicted}{BOX_END}"


@pytest.fixture(scope="session")
def ends_at(vocabulary: Vocabulary) -> Callable[..., int | None]:
    """Of an answer that grows token by token: how many there are when it is called a loop, None when never."""

    def length(text: str, *, limit: int) -> int | None:
        watch, ids = RepeatWatch(vocabulary, limit=limit), vocabulary.encode(text)
        return next((i for i in range(1, len(ids) + 1) if watch.is_looping(ids[:i])), None)

    return length


@pytest.mark.parametrize(
    ("text", "in_row"),
    [
        (segment("cat", FOUND, NEAR, FOUND), 2),
        (segment("cat", FOUND, OTHER, NEAR), 1),
        (segment("cat", FOUND, FOUND, OTHER, NEAR), 1),
        (segment("cat", FOUND, (500, 500, 600, 600), FOUND), 1),
        (segment("cat", FOUND) + ", " + segment("cat", FOUND), 1),
        (segment("cat", FOUND) + ", " + segment("dog", FOUND), 0),
        (segment("cat", FOUND) + ", " + segment("dog", FOUND, FOUND) + ", " + segment("cat", FOUND), 2),
        (segment("cat", FOUND, FOUND[:2], FOUND[:2]), 1),
        (segment("cat", *[(value, value) for value in range(0, 40, NEAR_BINS)]), 13),
        (segment("cat", *[(value, value) for value in range(0, 40, NEAR_BINS + 1)]), 0),
        ("None", 0),
    ],
)
def test_what_counts_as_a_repeat(ends_at: Callable[..., int | None], text: str, in_row: int) -> None:
    """Near in every number, of the same label and length; another shape between begins anew; slow drift counts."""
    assert ends_at(text, limit=in_row + 1) is None
    assert in_row == 0 or ends_at(text, limit=in_row) is not None


def test_it_is_decided_when_the_shape_is_whole(ends_at: Callable[..., int | None], vocabulary: Vocabulary) -> None:
    """At the token after the second repeat, not at the end of the answer."""
    text = segment("cat", FOUND, FOUND, FOUND)
    decided = ends_at(text + segment("dog", OTHER), limit=2)
    assert decided == len(vocabulary.encode(text))


shapes = st.lists(st.tuples(*[st.integers(0, 12)] * 2), max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["cat", "dog"]), shapes), max_size=4), st.integers(1, 3), st.randoms())
def test_the_verdict_does_not_depend_on_the_pieces(
    vocabulary: Vocabulary, predicted: list, limit: int, random: Random
) -> None:
    """Tokens may come one by one or many at once; and the verdict equals a count of shapes by hand."""
    ids = vocabulary.encode(", ".join(segment(label, *boxes) for label, boxes in predicted) + ".")
    whole = RepeatWatch(vocabulary, limit=limit).is_looping(ids)
    watch = RepeatWatch(vocabulary, limit=limit)
    cuts = list(accumulate(random.randint(1, 9) for _ in ids))
    assert any([watch.is_looping(ids[:cut]) for cut in cuts]) == whole
    earlier: list[tuple[str, Shape]] = []
    repeats = []
    for label, box in [(label, box) for label, boxes in predicted for box in boxes]:
        near = [
            abs(box[0] - x) <= NEAR_BINS and abs(box[1] - y) <= NEAR_BINS for name, (x, y) in earlier if name == label
        ]
        repeats.append(any(near))
        earlier.append((label, box))
    runs = list(accumulate(repeats, lambda count, repeat: count + 1 if repeat else 0, initial=0))
    assert whole == (max(runs) >= limit)


def test_a_true_answer_is_no_loop(ends_at: Callable[..., int | None]) -> None:
    """Nor is one in the released model's style, with a space between tokens: a space ends no shape."""
    record = fakes.record(boxes=9)
    text = encode_answer(record, record.categories)
    assert ends_at(text, limit=1) is None
    assert ends_at(text.replace("><", "> <"), limit=1) is None


def person(x: int) -> tuple[Shape, dict[str, Shape | None]]:
    """A person 6 bins wide: all key points of the head lie within 3 bins, the legs cannot be seen."""
    points = {name: (x + i % 3, 20 + i % 4) for i, name in enumerate(TASKS["keypoint_person"].keypoints)}
    return (x, 20, x + 6, 40), {name: None if name.endswith(("knee", "ankle")) else at for name, at in points.items()}


@pytest.mark.parametrize("num_people", [1, 4])
def test_key_points_of_small_people_are_no_loop(ends_at: Callable[..., int | None], num_people: int) -> None:
    """A true answer, whose instances differ in their boxes alone."""
    text = write_keypoints({f"person{i}": person(100 + 10 * i) for i in range(num_people)})
    assert ends_at(text, limit=1) is None


def test_an_instance_with_key_points_written_again_and_again_is_a_loop(ends_at: Callable[..., int | None]) -> None:
    """Its box repeats; the key points between neither count nor begin anew, also not where the answer goes on."""
    text = write_keypoints({f"person{i}": person(100 + i % 2) for i in range(6)})
    found = ends_at(text, limit=4)
    assert found is not None
    assert found == ends_at(text[: text.index('"keypoints"', text.index("person4"))], limit=4)
    assert ends_at(text, limit=6) is None
