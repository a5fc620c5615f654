"""Detects, while an answer is written, that it repeats the same shapes again and again."""

from collections import defaultdict
from collections.abc import Sequence

from rex_rl.language.vocabulary import BOX_END, BOX_START, NUM_BINS, OBJECT_END, OBJECT_START, Vocabulary

NEAR_BINS = 3
"""Shapes of one label are near-repeats if each number differs by at most so many of the grid's 1,000 lines."""
BOX_NUMBERS = 4
"""Coordinates of a box."""


class RepeatWatch:
    """Looks at one answer as it grows, each token once.

    A shape is a run of coordinate tokens, of whatever length the task has; spaces between them do not end it. Outside
    of box delimiters, as in the JSON of key points, only a run of four is one, an instance's box: the key points of a
    small person are all near each other. It is a repeat if an earlier shape of the same label in this answer, also
    under an earlier mention of the label, has as many numbers, all of them near. (What vLLM 0.32 detects by itself,
    `repetition_detection`, are patterns of tokens that recur exactly.)
    """

    def __init__(self, vocabulary: Vocabulary, *, limit: int) -> None:
        """`limit` near-repeats in a row are a loop."""
        self._first_id, self._limit = vocabulary.first_coordinate_id, limit
        self._space_ids = vocabulary.space_ids
        self._label_delimiters = vocabulary.id_of(OBJECT_START), vocabulary.id_of(OBJECT_END)
        self._box_delimiters = vocabulary.id_of(BOX_START), vocabulary.id_of(BOX_END)
        self._num_seen = 0
        self._label: tuple[int, ...] = ()
        self._is_label_open = self._is_box_open = False
        self._run: list[int] = []
        self._shapes: defaultdict[tuple[int, ...], list[list[int]]] = defaultdict(list)
        self._num_in_row = 0

    def is_looping(self, token_ids: Sequence[int]) -> bool:
        """Whether the answer loops, given all its tokens so far; once it does, it stays so."""
        for token_id in token_ids[self._num_seen :]:
            self._num_seen += 1
            if self._num_in_row < self._limit:
                self._read(token_id)
        return self._num_in_row >= self._limit

    def _read(self, token_id: int) -> None:
        start_id, end_id = self._label_delimiters
        if 0 <= token_id - self._first_id < NUM_BINS and not self._is_label_open:
            self._run.append(token_id - self._first_id)
            return
        if self._run and token_id in self._space_ids:
            return
        if self._run:
            self._end_run()
        if token_id == start_id:
            self._label, self._is_label_open = (), True
        elif token_id == end_id:
            self._is_label_open = False
        elif self._is_label_open:
            self._label += (token_id,)
        elif token_id in self._box_delimiters:
            self._is_box_open = token_id == self._box_delimiters[0]

    def _end_run(self) -> None:
        shape, self._run = self._run, []
        if not self._is_box_open and len(shape) != BOX_NUMBERS:
            return
        earlier = self._shapes[self._label]
        repeats = any(_is_near(shape, other) for other in earlier)
        self._num_in_row = self._num_in_row + 1 if repeats else 0
        earlier.append(shape)


def _is_near(shape: list[int], other: list[int]) -> bool:
    """Whether two lists of bins are near in every number.

    >>> _is_near([5, 5], [8, 2]), _is_near([5, 5], [9, 5]), _is_near([5, 5], [5, 5, 5])
    (True, False, False)
    """
    return len(shape) == len(other) and all(abs(a - b) <= NEAR_BINS for a, b in zip(shape, other, strict=True))
