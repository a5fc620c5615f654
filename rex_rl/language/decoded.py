"""The predictions of some answers to questions of one task, put together answer by answer.

Axes: G answers, N shapes of one and A of all of them, K numbers of one shape, F faults of one name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from rewards.terms import TRUNCATED
from rex_rl.language.answer_reader import Remarks
from rex_rl.language.grid import MIN_POLYGON, doubled_areas
from rex_rl.language.tasks import Geometry, Task
from rex_rl.types import Marks, Shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Answers that were read one after the other; their tokens and shapes are counted over all of them."""

    remarks_G: list[Remarks]
    labels: list[str]
    """[A]."""
    bins_AK: np.ndarray
    spans_A2: np.ndarray
    last_A: np.ndarray
    """[A] the last token of each shape's own: behind it the shape is complete."""
    shapes_at_G: list[int]
    """[G + 1] where each answer's shapes begin."""
    num_numbers: list[int] | None = None
    """[A] how many numbers each shape has, where that differs."""

    def blame(self, fault: str, tokens_F: np.ndarray, tokens_at_G: Sequence[int]) -> None:
        """Add a fault to the answers it stands in; the tokens of each answer begin at `tokens_at_G`."""
        if not tokens_F.size:
            return
        latest_first_F = np.sort(tokens_F)[::-1]
        answers_F = np.searchsorted(tokens_at_G, latest_first_F, side="right") - 1
        for answer, token in dict(zip(answers_F.tolist(), latest_first_F.tolist(), strict=True)).items():
            self.remarks_G[answer].note(fault, token)

    def shapes(
        self, tokens_at_G: Sequence[int], names_G: Sequence[Mapping[str, str]], task: Task, *, with_marks: bool
    ) -> list[Shapes]:
        """One `Shapes` for each answer."""
        for fault, is_so_A in _area_faults(self.bins_AK, task.geometry).items():
            self.blame(fault, self.last_A[is_so_A], tokens_at_G)
        shapes_at_G = np.array(self.shapes_at_G)
        spans_A2 = self.spans_A2 - np.array(tokens_at_G[:-1]).repeat(shapes_at_G[1:] - shapes_at_G[:-1])[:, None]
        bins_GNK = [self.bins_AK[at:end] for at, end in pairwise(self.shapes_at_G)]
        if self.num_numbers is not None:
            longest_G = [max(self.num_numbers[at:end], default=MIN_POLYGON) for at, end in pairwise(self.shapes_at_G)]
            bins_GNK = [bins_NK[:, :longest] for bins_NK, longest in zip(bins_GNK, longest_G, strict=True)]
        shapes_G = [
            _answer(tuple(self.labels[at:end]), bins_NK, spans_A2[at:end], remarks, names, task, tokens_end)
            for (at, end), bins_NK, remarks, names, tokens_end in zip(
                pairwise(self.shapes_at_G), bins_GNK, self.remarks_G, names_G, tokens_at_G[1:], strict=True
            )
        ]
        if not with_marks:
            return shapes_G
        return [
            replace(shapes, marks=_marks(self.last_A[at:end], remarks, names, first))
            for shapes, (at, end), remarks, names, first in zip(
                shapes_G, pairwise(self.shapes_at_G), self.remarks_G, names_G, tokens_at_G[:-1], strict=True
            )
        ]


def _area_faults(bins_AK: np.ndarray, geometry: Geometry) -> dict[str, np.ndarray]:
    """Fault -> which shapes have it: polygons without area; boxes (the first four numbers) with none, or swapped."""
    if geometry is Geometry.POINT or not bins_AK.size:
        return {}
    if geometry is Geometry.POLYGON:
        return {"zero_area": doubled_areas(bins_AK) == 0}
    near_A2, far_A2 = bins_AK[:, :2], bins_AK[:, 2:4]
    return {"swapped_corners": (near_A2 > far_A2).any(axis=1), "zero_area": (near_A2 == far_A2).any(axis=1)}


def _answer(
    labels: tuple[str, ...],
    bins_NK: np.ndarray,
    spans_N2: np.ndarray,
    remarks: Remarks,
    names: Mapping[str, str],
    task: Task,
    end: int,
) -> Shapes:
    """One answer, with the faults of its phrases added; its tokens go to before `end`."""
    phrases = remarks.phrases
    if task.reads_text:  # any text can be right; only `None` is about what was asked, and it must stand alone
        phrases = remarks.absent
        if len(phrases) + bool(labels) > 1:
            remarks.note("repeated_label", end - 1)
        if "" in labels:
            remarks.note("broken_segment", end - 1)
    else:
        if len(set(phrases.values())) < len(phrases):
            remarks.note("repeated_label", _first_repeated(phrases))
        if "broken_segment" in remarks.faults and "" in labels and "" not in names:  # shapes in front of every phrase
            remarks.note("unknown_label", remarks.faults["broken_segment"])
    for token, phrase in phrases.items():
        if phrase not in names:
            remarks.note("unknown_label", token)
    faults, absent = remarks.faults, remarks.absent
    return Shapes(
        labels=labels,
        bins_NK=bins_NK,
        spans_N2=spans_N2,
        faults=tuple(sorted(faults)) if faults else (),
        absent=tuple([names.get(phrase, phrase) for phrase in absent.values()]) if absent else (),
    )


def _marks(last_N: np.ndarray, remarks: Remarks, names: Mapping[str, str], first: int) -> Marks:
    """Where one answer's shapes, phrases and faults became known; its tokens begin at `first`."""
    return Marks(
        last_N=last_N - first,
        phrases=tuple([(token - first, names.get(phrase, phrase)) for token, phrase in remarks.phrases.items()]),
        absent=tuple([token - first for token in remarks.absent]),
        fault=min([token - first for fault, token in remarks.faults.items() if fault != TRUNCATED], default=None),
    )


def _first_repeated(phrases: Mapping[int, str]) -> int:
    """The token behind which the first repetition is known."""
    first_of = {phrase: token for token, phrase in reversed(list(phrases.items()))}
    return next(token for token, phrase in phrases.items() if first_of[phrase] != token)
