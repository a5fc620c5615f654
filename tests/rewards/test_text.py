"""Similarity of texts against the definition of edit distance."""

from functools import cache

import numpy as np

from rewards.text import text_similarity


@cache
def _edits(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions, by recursion."""
    if not first or not second:
        return len(first) + len(second)
    change = _edits(first[1:], second[1:]) + (first[0] != second[0])
    return min(change, _edits(first[1:], second) + 1, _edits(first, second[1:]) + 1)


def test_similarity_is_one_less_the_share_of_edits() -> None:
    """Random words of few letters, other scripts, lengths 1 to 6."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abAé字 "), int(rng.integers(1, 7)))) for _ in range(40)]
    expected_AB = [
        [1 - _edits(predicted, true) / max(len(predicted), len(true)) for true in words[20:]] for predicted in words
    ]
    np.testing.assert_allclose([text_similarity([predicted] * 20, words[20:]) for predicted in words], expected_AB)


def test_edges() -> None:
    """Equal texts 1, nothing in common 0, case counts; no texts have no similarities."""
    assert text_similarity(["exit", "EXIT", "", "taxi"], ["exit"] * 4).tolist() == [1.0, 0.0, 0.0, 0.25]
    assert text_similarity([], []).shape == (0,)
