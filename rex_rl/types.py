"""The records that cross a process border. Frozen, picklable, one per thing; no parallel lists.

Axes: T tokens of one answer, G answers of one prompt, P prompts of one step, N shapes, K numbers of one shape, J key
points. Boxes are [x0, y0, x1, y1]; `bins` are on the 1,000-line grid of rex_rl/language/grid.py, `px` are pixels of the
original image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rewards.geometry.masks import Mask

Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Object:
    """One annotated thing with the geometry its task asks for; all in pixels of the original image.

    `Object(label="cat", bbox=(12.0, 30.5, 99.0, 140.0))`
    """

    label: str
    """The category; in tasks that read text, the text itself."""
    bbox: Box | None = None
    """x0 < x1 and y0 < y1."""
    point: Point | None = None
    """Where to point. Where it is None, pointing tasks take the middle of `bbox`, or a place inside `mask`."""
    polygon: tuple[Point, ...] | None = None
    """Three vertices or more, with area."""
    keypoints: Mapping[str, Point | None] | None = None
    """Every key point of the task by name, in its order; None for one that cannot be seen."""
    mask: Mask | None = None
    """Of the image's size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image with its question and its ground truth: a line of a data set."""

    id: str
    image: str
    """Absolute path of the image file."""
    task: str
    """A key of `rex_rl.language.tasks.TASKS`."""
    categories: tuple[str, ...]
    """The categories asked for; the answer for one without an object is `None`."""
    objects: tuple[Object, ...]
    width: int
    """Pixels of the original image."""
    height: int
    source: str
    """`file:line` (JSONL) or `file#image_id` (COCO), for messages."""
    visual_prompt: tuple[Box, ...] = ()
    """Example boxes of the category, in tasks that ask by example."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return (self.width, self.height)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each object; in tasks that read text, the text."""
        return tuple(thing.label for thing in self.objects)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One question to be answered G times (or once, greedily, in an evaluation)."""

    uid: str
    """Unique in a run: stream position and record id, such as `000017:shapes_000042`."""
    record: Record
    question: str
    """The user's turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How answers are drawn. Training uses top_p 1 and no top_k, so these numbers are all."""

    num_answers: int
    temperature: float
    """0 is greedy."""
    max_tokens: int
    seed: int
    """Answer i of a prompt is drawn with seed + i, independently of the others."""
    max_repeats: int = 0
    """Near-repeats in a row (see `rex_rl.language.repeats`) at which an answer is ended; 0: never."""


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """The model wrote the end token, which is the answer's last token."""
    LENGTH = "length"
    """The token limit cut it: a truncated answer."""
    LOOPED = "looped"
    """It repeated itself and was ended while it was written: truncated like one that the limit cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer of the engine to one prompt."""

    tokens_T: np.ndarray
    """int64 ids, the end token included where the model wrote it."""
    logprobs_T: np.ndarray
    """float32 behaviour log-probabilities, under the distribution the token was drawn from (temperature, mask)."""
    versions_T: np.ndarray
    """int64: the weight version that wrote each token."""
    finish_reason: FinishReason

    @property
    def oldest_version(self) -> int:
        """The oldest weight version that wrote a token."""
        return int(self.versions_T.min())


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt with its G answers: the unit of rollout, reward, advantage and learning."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    worker: str = ""
    """Name of the rollout worker that wrote it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Where in an answer something became known, whatever its later tokens say; tokens counted from its first."""

    last_N: np.ndarray
    """int64 the last token of each shape's own."""
    phrases: tuple[tuple[int, str], ...] = ()
    """(token, label) of every phrase in order."""
    absent: tuple[int, ...] = ()
    """The token behind which each category of `Shapes.absent` was answered `None`."""
    fault: int | None = None
    """The token that shows the first fault other than truncation; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """The predictions of one answer, decoded from its token ids: N shapes of one geometry, in the order written."""

    labels: tuple[str, ...]
    """[N] the category of each shape; in tasks that read text, the text."""
    bins_NK: np.ndarray
    """int64 [N, K] on the grid, as written (corners may be swapped).

    Boxes have 4 numbers, points 2. Polygons have as many as the longest needs, and a shorter one repeats its last
    vertex; with no polygon the array is [0, 6]. Key points have their box and then 2 numbers for each of the J, -1
    where one cannot be seen.
    """
    spans_N2: np.ndarray
    """int64 [N, 2] tokens [start, end) of each shape, with the separator before it; in tasks that read text, with all
    tokens before it that give its text."""
    faults: tuple[str, ...]
    """Named faults of the answer, see `rex_rl.language.answer_reader.FAULTS`; empty when it is well formed."""
    absent: tuple[str, ...] = ()
    """Categories answered `None`."""
    marks: Marks | None = None
    """Where they were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """One answer cut into its K decisions, and what it stood at before each (rex_rl/scoring/decisions.py)."""

    starts_K: np.ndarray
    """int64 first token of each decision, from 0; it goes on to the next one's."""
    earned_K: np.ndarray
    """Reward if the answer had ended, well formed, before the decision."""
    state_KF: np.ndarray
    """Features of the answer before the decision, each of the order of 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Rewards of the G answers of one group: the total and every term by name, each [G] float64."""

    total_G: np.ndarray
    terms_G: Mapping[str, np.ndarray]
    decisions_G: tuple[Decisions, ...]
    """[G]; empty where credit is off."""
    shapes_G: tuple[Shapes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswer:
    """An answer ready to learn from."""

    answer: Answer
    advantages_T: np.ndarray
    """float32 advantage of every token (SFT: ones)."""
    token_weight: float
    """Weight of each of its tokens in the step's loss; a step's weights sum to 1, except under `token_weighting:
    constant`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainGroup:
    """A prompt and its answers with their advantages: the unit of a batch (SFT: one answer, advantage 1)."""

    prompt: Prompt
    answers: tuple[ScoredAnswer, ...]

    @property
    def num_answer_tokens(self) -> int:
        """Number of tokens the loss is taken over."""
        return sum(scored.answer.tokens_T.size for scored in self.answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean that can be joined with others, because it keeps its sum and its count."""

    total: float
    count: float

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(total=self.total + other.total, count=self.count + other.count)

    @property
    def value(self) -> float:
        """The mean; NaN for a count of 0."""
        return self.total / self.count if self.count else float("nan")
