"""Stand-ins for engines, learner and storage that keep the real ones' contract: no process, no learning.

What comes from a pool is read-only, as arrays from Ray's object store are. `events` is one list that the fakes of a
run share, so that a test can look at the order in which things happened.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from rex_rl.errors import RolloutError, Stopped
from rex_rl.types import Answer, FinishReason, Group, Mean, Object, Prompt, Record, Sampling, Scores, Shapes, TrainGroup

Event = tuple[str, int]


def record(name: str = "a", *, boxes: int = 1, task: str = "detection", size: tuple[int, int] = (100, 80)) -> Record:
    """A record whose objects lie side by side, each 8 px wide."""
    things = tuple(Object(label="cat", bbox=(10.0 * i, 5.0, 10.0 * i + 8.0, 60.0)) for i in range(boxes))
    if task == "pointing":
        things = tuple(Object(label="cat", point=(10.0 * i, 5.0)) for i in range(boxes))
    return Record(
        id=name,
        image=f"/images/{name}.png",
        task=task,
        categories=("cat", "dog"),
        objects=things,
        width=size[0],
        height=size[1],
        source=f"records.jsonl:{name}",
    )


def prompt(name: str = "a", **facts: object) -> Prompt:
    """A prompt about such a record."""
    return Prompt(uid=f"000000:{name}", record=record(name, **facts), question="Detect cat, dog.")


def answer(length: int, *, version: int = 0, reason: FinishReason = FinishReason.STOP) -> Answer:
    """An answer of `length` tokens that one version wrote."""
    return Answer(
        tokens_T=frozen(np.arange(length)),
        logprobs_T=frozen(np.full(length, -0.5, dtype=np.float32)),
        versions_T=frozen(np.full(length, version)),
        finish_reason=reason,
    )


def group(name: str = "a", lengths: Sequence[int] = (3, 5), *, version: int = 0) -> Group:
    """A prompt with one answer per length."""
    return Group(prompt=prompt(name), answers=tuple(answer(length, version=version) for length in lengths))


def shapes(spans: Sequence[tuple[int, int]] = (), *, faults: tuple[str, ...] = ()) -> Shapes:
    """Decoded boxes of which only the spans matter."""
    return Shapes(
        labels=("cat",) * len(spans),
        bins_NK=frozen(np.tile([0, 0, 9, 9], (len(spans), 1))),
        spans_N2=frozen(np.array(spans, dtype=np.int64).reshape(-1, 2)),
        faults=faults,
    )


def frozen(array: np.ndarray) -> np.ndarray:
    """The same array, read-only."""
    array.setflags(write=False)
    return array


class FakePool:
    """Answers at once, with the weights served when a prompt was submitted: the oldest a real answer could be."""

    def __init__(self, events: list[Event] | None = None, *, failures: Mapping[str, int] | None = None) -> None:
        self.version: int | None = None
        self.submitted: list[tuple[str, Sampling]] = []
        self.results: list[str] = []
        self.num_in_flight = 0
        self.most_in_flight = 0
        self._events = [] if events is None else events
        self._failures = Counter(failures or {})

    def submit(self, prompt: Prompt, sampling: Sampling) -> tuple[Prompt, Sampling, int]:
        """Take a prompt; refuses one before the first publish, as a real worker does."""
        assert self.version is not None, "asked to serve before the first publish"
        self.submitted.append((prompt.uid, sampling))
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        self._events.append(("submit", int(prompt.uid[:6]) if sampling.temperature else -1))
        return prompt, sampling, self.version

    def result(self, ticket: tuple[Prompt, Sampling, int]) -> Group:
        """The group, or a RolloutError while this prompt has failures left."""
        prompt, sampling, version = ticket
        self.num_in_flight -= 1
        if self._failures[prompt.uid] > 0:
            self._failures[prompt.uid] -= 1
            raise RolloutError(f"rollout-0: {prompt.uid} went wrong") from TimeoutError()
        self.results.append(prompt.uid)
        answers = tuple(answer(3 + i, version=version) for i in range(sampling.num_answers))
        return Group(prompt=prompt, answers=answers, worker="rollout-0")

    def discard(self, tickets: Sequence[tuple[Prompt, Sampling, int]]) -> None:
        """They are not in flight any more."""
        self.num_in_flight -= len(tickets)


class FakeRewards:
    """The longer an answer, the better; but in the groups named `flat`, all alike."""

    def __init__(self, events: list[Event], *, flat: Collection[str] = ()) -> None:
        self._events, self._flat = events, flat

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores per group."""
        self._events.append(("score", len(groups)))
        return [self._score(group) for group in groups]

    def _score(self, group: Group) -> Scores:
        size = 0 if group.prompt.uid in self._flat else 0.1
        total_G = frozen(np.array([answer.tokens_T.size * size for answer in group.answers]))
        return Scores(
            total_G=total_G,
            terms_G={"f1": total_G},
            decisions_G=(),
            shapes_G=tuple(shapes() for _ in group.answers),
        )


class FakeLearner:
    """Remembers what it was given; its weights are the number of its steps."""

    def __init__(self, events: list[Event]) -> None:
        self.num_steps = 0
        self.batches: list[list[TrainGroup]] = []
        self.factors: list[float] = []
        self._events = events

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> dict[str, Mean]:
        """One step."""
        self.num_steps += 1
        self.batches.append(list(groups))
        self.factors.append(learning_rate_factor)
        self._events.append(("step", self.num_steps))
        return {"loss": Mean(total=1.0, count=2.0)}

    def save_state(self, folder: Path) -> Callable[[], None]:
        """Copy the number of steps at once; it is written when waited for, in whatever thread that is."""
        copied = self.num_steps.to_bytes(8, "big") * 100
        return lambda: self.write(folder / "learner.safetensors", copied)

    def write(self, file: Path, data: bytes) -> None:
        """Write the file; tests make this slow or let it fail."""
        file.write_bytes(data)

    def load_state(self, folder: Path, num_steps: int) -> None:
        """Read it back."""
        self.num_steps = int.from_bytes((folder / "learner.safetensors").read_bytes()[:8], "big")
        assert self.num_steps == num_steps
        self._events.append(("load", num_steps))


class FakeSync:
    """Publishing makes the pool serve a version."""

    def __init__(self, events: list[Event], pool: FakePool) -> None:
        self._events, self._pool = events, pool

    def publish(self, version: int) -> dict[str, float]:
        """Confirmed at once."""
        self._events.append(("publish", version))
        self._pool.version = version
        return {"sync/version": float(version)}


class FakeHeldOut:
    """Knows which version it judged."""

    def __init__(self, events: list[Event], pool: FakePool) -> None:
        self.figures: dict[str, float] = {}
        self._events, self._pool = events, pool

    def evaluate(self, stage: str, step: int) -> dict[str, float]:
        """The served version as the figure."""
        assert self._pool.version == step, "judged other weights than the stage's"
        self._events.append(("evaluate", step))
        self.figures = {"f1_50": float(step)}
        return self.figures


class FakeProgress:
    """Keeps no files; `start` is the step a restore gives, after `last` the run is asked to end."""

    def __init__(self, events: list[Event], *, start: int = 0, last: int | None = None) -> None:
        self._events, self._start, self._last = events, start, last

    def restore(self, learner: FakeLearner) -> int:
        """The step to go on from."""
        learner.num_steps = self._start
        return self._start

    def after_step(self, step: int, learner: FakeLearner) -> None:
        """Whether a checkpoint is due is the real one's business."""
        assert learner.num_steps == step
        self._events.append(("after_step", step))
        if step == self._last:
            raise Stopped("asked to end")


class FakeLog:
    """Keeps what a loop logs."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, dict[str, float]]] = []
        self.evaluations: list[tuple[str, int, dict[str, float]]] = []
        self.seconds: list[dict[str, float]] = []

    def step(
        self, stage: str, step: int, *, num_steps: int, metrics: Mapping[str, float], seconds: Mapping[str, float]
    ) -> None:
        """One step."""
        assert step <= num_steps
        self.steps.append((stage, step, dict(metrics)))
        self.seconds.append(dict(seconds))

    def evaluation(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """One evaluation."""
        self.evaluations.append((stage, step, dict(metrics)))


class FakeCanaries:
    """No check is ever due."""

    def metrics(self, step: int) -> dict[str, float]:
        """Nothing."""
        return {}
