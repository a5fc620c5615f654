"""Segments cut into shapes: what ends one decides which of its parts count, and no segment touches the next."""

import pytest

from rex_rl.language.answer_reader import Ending, Segment
from rex_rl.language.segment_shapes import SegmentShapes, cut_shapes

BOX = 4


def cut(text: str, ending: Ending = Ending.DELIMITER, *, size: int | None = BOX) -> SegmentShapes:
    """One segment: B, its inside (c a coordinate, t text, a space), and whatever stands behind it."""
    return cut_shapes([Segment(0, 0, len(text) - 1, ending)], text.encode(), size=size)


@pytest.mark.parametrize(
    ("text", "ending", "spans", "faults"),
    [
        ("Bcccc,cccc.", Ending.DELIMITER, [[0, 5], [5, 10]], {}),
        ("Bcc cc .", Ending.DELIMITER, [[0, 7]], {}),
        ("Bcccc,ccc.", Ending.DELIMITER, [[0, 5]], {"bad_count": [9]}),
        ("Bcccc,ccc.", Ending.BREAK, [[0, 5]], {"bad_count": [9]}),
        ("Bcccc,ccc.", Ending.LIMIT, [[0, 5]], {}),
        ("Bcccc,cccc.", Ending.LIMIT, [[0, 5], [5, 10]], {}),
        ("Bcccc,ccccc.", Ending.LIMIT, [[0, 5]], {"bad_count": [10]}),
        ("Bcccc,.", Ending.DELIMITER, [[0, 5]], {"stray_tokens": [6]}),
        ("Bcccc,.", Ending.LIMIT, [[0, 5]], {}),
        ("B,cccc.", Ending.DELIMITER, [[1, 6]], {"stray_tokens": [1]}),
        ("Bcccct,cccc.", Ending.BREAK, [[0, 6], [6, 11]], {"stray_tokens": [5]}),
        ("Btcccc.", Ending.DELIMITER, [[0, 6]], {"stray_tokens": [6]}),
        ("Btcccc.", Ending.BREAK, [[0, 6]], {}),
    ],
)
def test_what_ends_a_segment_decides_what_its_parts_are(
    text: str, ending: Ending, spans: list[list[int]], faults: dict[str, list[int]]
) -> None:
    """A shape that the limit cut is no fault, one too long already is, at its first number too many; one too short is
    known behind its end; text in front is judged at the end delimiter."""
    shapes = cut(text, ending)
    assert shapes.spans_A2.tolist() == spans
    assert {name: tokens_F.tolist() for name, tokens_F in shapes.faults.items() if tokens_F.size} == faults


def test_polygons_are_whatever_has_three_whole_vertices() -> None:
    shapes = cut("Bcccccc,ccccccc,cccc,cccccccc.", size=None)
    assert shapes.num_numbers_A.tolist() == [6, 8]
    assert shapes.faults["bad_count"].tolist() == [15, 20]


def test_segments_keep_to_themselves() -> None:
    """The second begins where the first was cut; nothing between segments is looked at."""
    kinds = b"Bcccc,ccBcccct,cctccc,Bcccc"
    segments = [
        Segment(0, 0, 8, Ending.LIMIT),
        Segment(8, 8, 14, Ending.BREAK),
        Segment(20, 22, 27, Ending.LIMIT),
    ]
    shapes = cut_shapes(segments, kinds, size=BOX)
    assert shapes.segment_A.tolist() == [0, 1, 2]
    assert shapes.spans_A2.tolist() == [[0, 5], [8, 14], [22, 27]]
    assert shapes.number_tokens_C.tolist() == [*range(1, 5), *range(9, 13), *range(23, 27)]
    assert shapes.faults["stray_tokens"].tolist() == [13]


def test_no_segment_has_no_shapes() -> None:
    shapes = cut_shapes([], b"tt", size=BOX)
    assert shapes.spans_A2.shape == (0, 2)
    assert not shapes.faults
