"""The predictions of some answers to questions of one task, put together answer by answer.

Axes: G answers, N shapes of one and A of all of them, K numbers of one shape, F faults of one name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rex_rl.language.answer_reader import Remarks
from rex_rl.language.grid import MIN_POLYGON, doubled_areas
from rex_rl.language.tasks import Geometry, Task
from rex_rl.types import Shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Answers that were read one after the other; their tokens and shapes are counted over all of them."""

    remarks_G: list[Remarks]
    labels: list[str]
    """[A]."""
    bins_AK: np.ndarray
    spans_A2: np.ndarray
    shapes_at_G: list[int]
    """[G + 1] where each answer's shapes begin."""
    num_numbers: list[int] | None = None
    """[A] how many numbers each shape has, where that differs."""

    def blame(self, fault: str, places_F: np.ndarray, at_G: Sequence[int]) -> None:
        """Add a fault to the answers it stands in.

        `places_F` counts over all tokens or all shapes; those of each answer begin at `at_G`.
        """
        for answer in set((np.searchsorted(at_G, places_F, side="right") - 1).tolist()):
            self.remarks_G[answer].faults.add(fault)

    def shapes(self, tokens_at_G: Sequence[int], names_G: Sequence[Mapping[str, str]], task: Task) -> list[Shapes]:
        """One `Shapes` for each answer."""
        for fault, is_so_A in _area_faults(self.bins_AK, task.geometry).items():
            self.blame(fault, is_so_A.nonzero()[0], self.shapes_at_G)
        shapes_at_G = np.array(self.shapes_at_G)
        spans_A2 = self.spans_A2 - np.array(tokens_at_G[:-1]).repeat(shapes_at_G[1:] - shapes_at_G[:-1])[:, None]
        bins_GNK = [self.bins_AK[at:end] for at, end in pairwise(self.shapes_at_G)]
        if self.num_numbers is not None:
            longest_G = [max(self.num_numbers[at:end], default=MIN_POLYGON) for at, end in pairwise(self.shapes_at_G)]
            bins_GNK = [bins_NK[:, :longest] for bins_NK, longest in zip(bins_GNK, longest_G, strict=True)]
        return [
            _answer(tuple(self.labels[at:end]), bins_NK, spans_A2[at:end], remarks, names, task)
            for (at, end), bins_NK, remarks, names in zip(
                pairwise(self.shapes_at_G), bins_GNK, self.remarks_G, names_G, strict=True
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
) -> Shapes:
    """One answer, with the faults of its phrases added."""
    phrases, faults = remarks.phrases, remarks.faults
    if task.reads_text:  # any text can be right; only `None` is about what was asked, and it must stand alone
        phrases = remarks.absent
        is_repeated = len(phrases) + bool(labels) > 1
        if "" in labels:
            faults.add("broken_segment")
    else:
        is_repeated = len(set(phrases)) < len(phrases)
        if "broken_segment" in faults and "" in labels and "" not in names:  # shapes in front of every phrase
            faults.add("unknown_label")
    if is_repeated:
        faults.add("repeated_label")
    if any(phrase not in names for phrase in phrases):
        faults.add("unknown_label")
    return Shapes(
        labels=labels,
        bins_NK=bins_NK,
        spans_N2=spans_N2,
        faults=tuple(sorted(faults)) if faults else (),
        absent=tuple([names.get(phrase, phrase) for phrase in remarks.absent]) if remarks.absent else (),
    )
