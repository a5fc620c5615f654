"""How alike recognised texts are (RapidFuzz). Axes: L pairs."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from rewards.geometry.boxes import FloatArray


def text_similarity(predicted_L: Sequence[str], true_L: Sequence[str]) -> FloatArray:
    """[L] 1 - edit distance / length of the longer text, in [0, 1]; upper and lower case differ.

    Insertions, deletions and substitutions of one character cost 1 each (Levenshtein, "1-NED" of OCR contests).

    >>> text_similarity(["exit", "exist", ""], ["exit"] * 3).tolist()
    [1.0, 0.8, 0.0]
    """
    return np.asarray(cpdist(predicted_L, true_L, scorer=Levenshtein.normalized_similarity, dtype=np.float64))
