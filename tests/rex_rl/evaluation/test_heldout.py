"""Held-out evaluation: greedy, once a record, compared with the untouched truth, and kept for the report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rex_rl.config.schema import SHAPES_TASKS
from rex_rl.data.records import read_records
from rex_rl.evaluation.figures import evaluate
from rex_rl.evaluation.heldout import HeldOut, answer_greedily, read_samples, result_of, write_samples
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.language.codec import Codec
from rex_rl.language.tasks import TASKS, Geometry
from rex_rl.run.folder import RunFolder
from rex_rl.shapes.world import write_split
from rex_rl.types import Answer, FinishReason, Group, Object, Prompt, Record, Sampling
from tests.support import fakes
from tests.support.task_records import record_of

RECORDS = [fakes.record(f"r{i}", boxes=1 + i) for i in range(4)]


class Knowing(fakes.FakePool):
    """Answers every prompt with its truth."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.version, self._codec = 0, codec

    def result(self, ticket: tuple[Prompt, Sampling, int]) -> Group:
        prompt = ticket[0]
        return Group(prompt=prompt, answers=(true_answer(prompt.record, self._codec),))


def true_answer(record: Record, codec: Codec) -> Answer:
    tokens_T = fakes.frozen(codec.encode(record, record.categories))
    return Answer(
        tokens_T=tokens_T,
        logprobs_T=np.zeros(tokens_T.size, dtype=np.float32),
        versions_T=np.zeros(tokens_T.size, dtype=np.int64),
        finish_reason=FinishReason.STOP,
    )


def test_every_record_is_answered_once_greedily_and_in_order(codec: Codec) -> None:
    pool = Knowing(codec)
    results = answer_greedily(pool, RECORDS, codec, max_answer_tokens=77)
    assert [result.image_id for result in results] == [record.id for record in RECORDS]
    assert [uid for uid, _ in pool.submitted] == [f"eval:{record.id}" for record in RECORDS]
    assert {sampling for _, sampling in pool.submitted} == {
        Sampling(num_answers=1, temperature=0.0, max_tokens=77, seed=0)
    }
    assert pool.most_in_flight == len(RECORDS), "all are submitted before the first is waited for"


def test_the_truth_is_not_put_on_the_grid(codec: Codec) -> None:
    """A perfect answer differs from the truth by the codec's rounding, which the figures must show."""
    record = fakes.record(boxes=2)
    result = result_of(record, true_answer(record, codec), codec)
    assert result.truth_NK.tolist() == [[0.0, 5.0, 8.0, 60.0], [10.0, 5.0, 18.0, 60.0]]
    assert 0 < np.abs(result.predicted_NK - result.truth_NK).max() < 0.06
    assert (result.width, result.height, result.faults) == (100, 80, ())


def test_figures_and_samples_of_an_evaluation(codec: Codec, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    heldout = HeldOut(Knowing(codec), RECORDS, codec, max_answer_tokens=9, run=run)
    assert heldout.figures == {}
    figures = heldout.evaluate("grpo", 20)
    assert heldout.figures is figures
    assert (figures["f1_50"], figures["num_images"], figures["parse_failure_rate"]) == (1, 4, 0)
    assert list(run.wall_s) == ["grpo_eval"]
    assert len(read_samples(tmp_path / "samples" / "grpo_000020.jsonl")) == 4


def test_points_and_words_are_judged_and_kept(codec: Codec, tmp_path: Path) -> None:
    """Perfect answers have figures of 1 in every task, points by their things' boxes, also when read back."""
    file = write_split(tmp_path, name="mix", num_images=2, seed=1, tasks=SHAPES_TASKS)
    records = read_records(file, task=None).records
    results = [result_of(record, true_answer(record, codec), codec) for record in records]
    write_samples(tmp_path / "sft_000001.jsonl", records, results)
    kept = [result for _, result in read_samples(tmp_path / "sft_000001.jsonl")]
    for figures in (evaluate(results), evaluate(kept)):
        assert all(figures[f"{task}/f1_50"] == 1 and figures[f"{task}/num_images"] == 2 for task in SHAPES_TASKS)
        assert (figures["pointing/f1_95"], figures["ocr_box/text_similarity"]) == (1, 1)
        assert figures["parse_failure_rate"] == figures["duplicate_rate"] == 0


GIVEN = {
    Geometry.BOX: {"bbox": (100.0, 200.0, 300.0, 500.0)},
    Geometry.POINT: {"point": (100.0, 200.0)},
    Geometry.POLYGON: {"polygon": ((100.0, 200.0), (300.0, 200.0), (250.0, 500.0), (200.0, 600.0))},
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_judged_and_kept(codec: Codec, tmp_path: Path, name: str) -> None:
    """A perfect answer has figures of 1 beside one without predictions, also when they are read back."""
    task = TASKS[name]
    seen = {point: None if i % 3 == 2 else (100.0 + 5 * i, 200.0) for i, point in enumerate(task.keypoints)}
    given = GIVEN[Geometry.BOX] | {"keypoints": seen} if task.keypoints else GIVEN[task.geometry]
    label = task.choices[0] if task.choices else "cat"
    record = record_of(name, Object(label="AB" if task.reads_text else label, **given), categories=(label,))
    silent = replace(true_answer(record, codec), tokens_T=np.array([codec._vocabulary.answer_end_id]))
    results = [result_of(record, answer, codec) for answer in (true_answer(record, codec), silent)]
    write_samples(tmp_path / "sft_000001.jsonl", [record] * 2, results)
    kept = [result for _, result in read_samples(tmp_path / "sft_000001.jsonl")]
    for perfect, nothing in (results, kept):
        figures = evaluate([perfect])
        assert (figures["f1_50"], figures["f1_95"], figures["parse_failure_rate"]) == (1, 1, 0)
        assert (evaluate([nothing])["recall_50"], evaluate([nothing])["mean_predictions"]) == (0, 0)


@pytest.mark.parametrize("predicted", [0, 3])
def test_samples_come_back(tmp_path: Path, predicted: int) -> None:
    result = ImageResult(
        image_id="r0",
        width=100,
        height=80,
        truth_labels=("cat",),
        truth_NK=np.array([[0.125, 5, 8, 60]]),
        predicted_labels=("cat",) * predicted,
        predicted_NK=np.arange(4.0 * predicted).reshape(-1, 4),
        faults=("truncated",),
    )
    file = tmp_path / "deep" / "sft_000001.jsonl"
    write_samples(file, [fakes.record("r0")], [result])
    ((image, back),) = read_samples(file)
    assert image == "/images/r0.png"
    assert (back.image_id, back.width, back.height, back.faults) == ("r0", 100, 80, ("truncated",))
    assert (back.predicted_labels, back.truth_labels) == (result.predicted_labels, result.truth_labels)
    assert (back.predicted_NK.tolist(), back.truth_NK.tolist()) == (
        result.predicted_NK.tolist(),
        result.truth_NK.tolist(),
    )
    assert json.loads(file.read_text())["truth"] == [{"label": "cat", "bbox": [0.125, 5.0, 8.0, 60.0]}]
