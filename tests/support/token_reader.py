"""The answer grammar written a second time, token by token as a state machine: slow, plain, and only for tests.

rex_rl/language/answer_reader.py finds whole segments by a regular expression; both must read the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rex_rl.language.tasks import Task
from rex_rl.language.vocabulary import (
    ANSWER_END,
    BOX_END,
    BOX_START,
    NUM_BINS,
    OBJECT_END,
    OBJECT_START,
    Vocabulary,
)

_SPACES = str.maketrans("", "", "ĠĊĉč")
"""How byte-level BPE writes space, newline, tab and carriage return."""


@dataclass
class TokenReader:
    """Reads one answer; `labels` and `absent` are phrases as written."""

    vocabulary: Vocabulary
    size: int | None
    reads_text: bool
    labels: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    spans: list[list[int]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)
    state: str = "outside"
    phrase: str = ""
    behind: int = 0
    """The first token behind the segment before."""
    start: int = 0
    text: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    says_shape: bool = False

    def read(self, tokens: Sequence[int]) -> None:
        for at, token in enumerate(tokens):
            kind = self.kind_of(token)
            if kind == ANSWER_END:
                if self.state == "shapes":
                    self.close_shape(at)
                if self.state != "outside":
                    self.faults.add("broken_segment")
                return
            self.step(kind, at, token)
        if self.state == "shapes" and (self.is_right_count() or (self.size and len(self.numbers) > self.size)):
            self.close_shape(len(tokens))
        self.faults.add("truncated")

    def kind_of(self, token: int) -> str:
        first, pieces = self.vocabulary.first_coordinate_id, self.vocabulary.pieces
        if not 0 <= token < len(pieces) or not pieces[token]:
            return "undefined"
        if first <= token < first + NUM_BINS:
            return "coordinate"
        if pieces[token] in (OBJECT_START, OBJECT_END, BOX_START, BOX_END, ANSWER_END):
            return pieces[token]
        predicted = pieces[token].translate(_SPACES)
        return "comma" if predicted == "," else "text" if predicted else "space"

    def step(self, kind: str, at: int, token: int) -> None:
        if kind == "undefined":
            self.faults.add("undefined_id")
        elif kind == OBJECT_START:
            if self.state == "shapes":
                self.close_shape(at)
                self.behind = at
            if self.state != "outside":
                self.faults.add("broken_segment")
            self.state, self.text = "phrase", []
        elif kind == OBJECT_END and self.state == "phrase":
            self.phrase = self.predicted()
            self.phrases.append(self.phrase)
            self.state = "labelled"
        elif kind == BOX_START and self.state in ("outside", "labelled"):
            if self.state == "outside":
                self.faults.add("broken_segment")
            self.state, self.text, self.says_shape = "shapes", [], False
            self.start = self.behind if self.reads_text else at
        elif kind == BOX_END and self.state == "shapes":
            self.end_segment(at)
        elif self.state == "phrase" and kind in ("text", "comma", "space"):
            self.text.append(token)
        elif self.state == "shapes" and kind in ("coordinate", "comma", "text"):
            self.step_in_shapes(kind, at, token)
        elif kind != "space" and not (kind == "comma" and self.state == "outside"):
            self.faults.add("stray_tokens")
        if kind in (OBJECT_END, BOX_END) and self.state == "outside":
            self.behind = at + 1

    def step_in_shapes(self, kind: str, at: int, token: int) -> None:
        if kind == "coordinate":
            self.numbers.append(token - self.vocabulary.first_coordinate_id)
        elif kind == "comma":
            if not self.numbers:
                self.faults.add("stray_tokens")
            self.close_shape(at)
            self.start = at
        elif self.says_shape or self.numbers:
            self.faults.add("stray_tokens")
        else:
            self.text.append(token)

    def end_segment(self, at: int) -> None:
        behind_comma = self.says_shape and not self.numbers
        self.close_shape(at)
        if not self.says_shape and self.predicted() == "None":
            self.absent.append(self.phrase)
        elif not self.says_shape:
            self.faults.add("broken_segment")
        elif behind_comma or self.text:
            self.faults.add("stray_tokens")
        self.state = "outside"

    def predicted(self) -> str:
        return self.vocabulary.decode(self.text).strip()

    def is_right_count(self) -> bool:
        num = len(self.numbers)
        return num == self.size if self.size else num >= 6 and num % 2 == 0

    def close_shape(self, end: int) -> None:
        if not self.numbers:
            return
        if self.is_right_count():
            self.labels.append(self.phrase)
            self.shapes.append(self.numbers)
            self.spans.append([self.start, end])
        else:
            self.faults.add("bad_count")
        self.numbers, self.says_shape = [], True


def read_slowly(
    vocabulary: Vocabulary, tokens: Sequence[int], *, task: Task, categories: Sequence[str]
) -> tuple[list[str], list[list[int]], list[list[int]], set[str], list[str]]:
    """(labels, shapes, spans, faults, absent), everything as `Codec.decode` has it; polygons are not padded."""
    reader = TokenReader(vocabulary, task.geometry.size, task.reads_text)
    reader.read(tokens)
    faults, asked = reader.faults, dict(zip(task.phrases(categories), categories, strict=True))
    for shape in reader.shapes:
        faults |= _faults_of(shape, task)
    if task.reads_text:
        judged = reader.absent
        faults |= {"broken_segment"} if "" in reader.labels else set()
        faults |= {"repeated_label"} if len(judged) + bool(reader.labels) > 1 else set()
    else:
        judged = reader.phrases + reader.labels
        faults |= {"repeated_label"} if len(set(reader.phrases)) < len(reader.phrases) else set()
    faults |= {"unknown_label"} if set(judged) - set(asked) else set()
    named = [label if task.reads_text else asked.get(label, label) for label in reader.labels]
    return named, reader.shapes, reader.spans, faults, [asked.get(phrase, phrase) for phrase in reader.absent]


def _faults_of(shape: list[int], task: Task) -> set[str]:
    if task.geometry.size == 4:
        x0, y0, x1, y1 = shape
        swapped, flat = x1 < x0 or y1 < y0, x1 == x0 or y1 == y0
        return {name for name, is_so in (("swapped_corners", swapped), ("zero_area", flat)) if is_so}
    if task.geometry.size is None:
        corners = list(zip(shape[::2], shape[1::2], strict=True))
        edges = zip(corners, corners[1:] + corners[:1], strict=True)
        return set() if sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges) else {"zero_area"}
    return set()
