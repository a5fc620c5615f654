"""How alike recognised texts are (RapidFuzz). Axes: A said texts, B true texts."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from rewards.geometry import FloatArray


def text_similarity(said_A: Sequence[str], true_B: Sequence[str]) -> FloatArray:
    """[A, B] 1 - edit distance / length of the longer text, in [0, 1]; upper and lower case differ.

    Insertions, deletions and substitutions of one character cost 1 each (Levenshtein, "1-NED" of OCR contests).

    >>> text_similarity(["exit", "exist", ""], ["exit"]).ravel().tolist()
    [1.0, 0.8, 0.0]
    """
    if not said_A or not true_B:
        return np.zeros((len(said_A), len(true_B)))
    return np.asarray(cdist(said_A, true_B, scorer=Levenshtein.normalized_similarity, dtype=np.float64))
