"""Rewards of given answers, offline: what `rex-rl score` prints. No GPU, no cluster, no model weights, no pixels.

Answers are lines `{"id": "..", "answer": "..text.."}`; the id is that of a record, and may come more than once.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards import REWARDS, RewardWeights, score_group
from rex_rl.data.records import parse_line, read_records
from rex_rl.errors import DataError, UserError
from rex_rl.language.codec import Codec, truth_on_grid
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.types import Record

SHIPPED_TOKENIZER = Path(__file__).parents[1] / "shapes" / "base"
"""That of the shipped base; rex_rl/policy/model_folder.py has it too, but imports the configuration: 0.1 s more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenAnswer:
    """One line of a file of answers."""

    id: str | int
    """As the file writes it."""
    text: str
    where: str
    """`file:line`, for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswers:
    """The answers' scores, in their order, and how many records nobody answered."""

    lines: tuple[Mapping[str, Any], ...]
    """Each `{"id", "total", "terms", "faults", "num_predicted", "num_true", "num_duplicates"}`."""
    reward: str
    num_records: int
    num_unanswered: int

    @property
    def summary(self) -> str:
        """The means in one line, each over the answers that have the term."""
        values = defaultdict(list)
        for line in self.lines:
            for name, value in {"total": line["total"], **line["terms"]}.items():
                values[name].append(value)
        means = ", ".join(f"{name} {sum(found) / len(found):.6g}" for name, found in values.items())
        return (
            f"mean of {len(self.lines):,} answers under {self.reward}: {means}; "
            f"{self.num_unanswered:,} of {self.num_records:,} records have no answer"
        )


def score_files(
    records_file: Path,
    answers_file: Path,
    *,
    reward: str = "matched",
    task: str | None = None,
    model: Path | None = None,
) -> ScoredAnswers:
    """Score a file of answers against a file of records, under the default weights.

    Args:
        records_file: JSON lines; images are looked at only where a record does not say its width and height.
        answers_file: JSON lines.
        reward: a key of `rewards.REWARDS`.
        task: the one task of all records; None: each record's own, `detection` where it names none.
        model: folder of a tokenizer that reads the answers; None: the shipped one, byte by byte where it has no word.

    Raises:
        UserError: one line that names file and line, or value and choices. Every record has to be good.
    """
    _require_known("--reward", reward, REWARDS)
    if task is not None:
        _require_known("--task", task, TASKS)
    codec = Codec(load_vocabulary(SHIPPED_TOKENIZER if model is None else model))
    records = _read_records(records_file, task)
    answers = list(read_answers(answers_file))
    places_of: dict[str, list[int]] = defaultdict(list)
    for place, answer in enumerate(answers):
        if str(answer.id) not in records:
            raise DataError(f"{answer.where}: id: {answer.id!r:.60} is in no record of {records_file}")
        places_of[str(answer.id)].append(place)
    lines: list[Mapping[str, Any]] = [{}] * len(answers)
    for id, places in places_of.items():
        scored = score_answers(records[id], [answers[place].text for place in places], codec, reward=reward)
        for place, values in zip(places, scored, strict=True):
            lines[place] = {"id": answers[place].id, **values}
    return ScoredAnswers(
        lines=tuple(lines), reward=reward, num_records=len(records), num_unanswered=len(records) - len(places_of)
    )


def score_answers(record: Record, texts: Sequence[str], codec: Codec, *, reward: str) -> Iterator[dict[str, Any]]:
    """Reward and terms of each answer to one record, as plain values, in the order of `texts`."""
    shapes_G = [codec.decode_text(text, task=TASKS[record.task], categories=record.categories) for text in texts]
    scores = score_group(shapes_G, truth_on_grid(record), weights=RewardWeights(), name=reward)
    for i, shapes in enumerate(shapes_G):
        yield {
            "total": float(scores.total_G[i]),
            "terms": {name: float(values_G[i]) for name, values_G in scores.terms_G.items()},
            "faults": list(shapes.faults),
            "num_predicted": int(scores.num_predicted_G[i]),
            "num_true": scores.num_true,
            "num_duplicates": int(scores.num_duplicates_G[i]),
        }


def read_answers(file: Path) -> Iterator[GivenAnswer]:
    """The answers of a file, in its order; blank lines are skipped, other keys ignored.

    Raises DataError: no such file, no answer in it, or `file:line` of one without an id or a text.
    """
    num_answers = 0
    try:
        with open(file, "rb") as stream:
            for line, raw in enumerate(stream, start=1):
                if raw.strip():
                    num_answers += 1
                    yield _answer(raw.removeprefix(b"\xef\xbb\xbf"), f"{file}:{line}")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    if num_answers == 0:
        raise DataError(f"{file}: empty, no answer in it")


def _answer(raw: bytes, where: str) -> GivenAnswer:
    fields = parse_line(raw)
    if isinstance(fields, DataError):
        raise DataError(f"{where}: {fields}")
    for key, kinds, kind in (("id", (str, int), "a text or a whole number"), ("answer", (str,), "text")):
        if key not in fields:
            raise DataError(f"{where}: {key}: missing")
        if type(fields[key]) not in kinds:
            raise DataError(f"{where}: {key}: {fields[key]!r:.60} is not {kind}")
    try:
        fields["answer"].encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which no tokenizer takes
        raise DataError(f"{where}: answer: not valid Unicode at character {error.start}") from None
    return GivenAnswer(id=fields["id"], text=fields["answer"], where=where)


def _read_records(file: Path, task: str | None) -> dict[str, Record]:
    """The records by id; unlike in training, the first bad one is refused, as its answers could not be scored."""
    found = read_records(file, task=task, max_bad_fraction=1.0, check_images=False)
    if found.bad:
        raise DataError(found.bad[0].text)
    return {record.id: record for record in found.records}


def _require_known(option: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise UserError(f"{option} = {name}: should be one of {', '.join(known)}")
