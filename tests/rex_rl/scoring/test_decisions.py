"""What an answer stood at before each of its decisions, held against its definition: the reward of the ended answer."""

import time

import numpy as np
import pytest

from rex_rl.language.codec import Codec, truth_on_grid
from rex_rl.language.decision_points import Choice
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import BOX_END, OBJECT_START, Vocabulary
from tests.support.decided import CATEGORIES, RULE, scene, scored, written


def ended(tokens_T: np.ndarray, choice: int, vocabulary: Vocabulary) -> list[int]:
    """The answer that ends, well formed, behind these tokens: a comma, or a list without a shape, is taken back."""
    tokens = tokens_T.tolist()
    if choice == Choice.FIRST:
        tokens = tokens[: len(tokens) - tokens[::-1].index(vocabulary.id_of(OBJECT_START)) - 1]
    if choice in (Choice.SHAPE, Choice.PHRASE):
        tokens = tokens[:-1]
    if choice in (Choice.SHAPE, Choice.MORE):
        tokens.append(vocabulary.id_of(BOX_END))
    return [*tokens, vocabulary.answer_end_id]


@pytest.mark.parametrize("task", ["detection", "pointing", "ocr_box", "ocr_polygon"])
def test_what_was_earned_is_the_reward_of_the_answer_that_ended_there(
    codec: Codec, vocabulary: Vocabulary, task: str
) -> None:
    """Every decision of well formed answers and of broken ones, up to their first fault."""
    rng, num_tried, num_broken, none_id = np.random.default_rng(0), 0, 0, vocabulary.encode("None")[-1]
    for _ in range(60):
        record = scene(rng, task)
        truth = truth_on_grid(record)
        tokens_T = written(rng, record, codec, vocabulary)
        (decisions,) = scored(record, [tokens_T], codec).decisions_G
        (points,) = codec.decision_points([tokens_T], task=TASKS[task])
        marks = codec.decode_group([tokens_T], categories=CATEGORIES, task=TASKS[task], with_marks=True)[0].marks
        assert marks is not None
        fault = marks.fault
        num_broken += fault is not None
        for start, choice, earned in zip(points.starts_K, points.choices_K, decisions.earned_K, strict=True):
            if fault is not None and start > fault:
                break
            shapes = codec.decode(ended(tokens_T[:start], choice, vocabulary), categories=CATEGORIES, task=TASKS[task])
            if shapes.faults or (choice == Choice.SHAPE and none_id in tokens_T[start - 3 : start]):
                continue  # "None," ends well formed as `None`, which it is not yet
            (scores,) = RULE.score([[shapes]], [truth], task=task)
            assert earned == pytest.approx(scores.total_G[0], abs=1e-12), (start, Choice(choice))
            num_tried += 1
    assert num_tried > 150
    assert num_broken > 10


@pytest.mark.parametrize("task", ["detection", "pointing", "ocr_box", "ocr_polygon", "keypoint_person"])
def test_answers_that_agree_so_far_stand_at_the_same(codec: Codec, vocabulary: Vocabulary, task: str) -> None:
    """Whatever follows, and however broken: the baseline of a decision depends on what stands before it alone."""
    rng, num_agreed = np.random.default_rng(1), 0
    for _ in range(120):
        record = scene(rng, task)
        first_T, other_T = (written(rng, record, codec, vocabulary) for _ in range(2))
        parting = int(rng.integers(1, first_T.size + 1))
        second_T = np.concatenate([first_T[:parting], other_T[int(rng.integers(other_T.size)) :]])
        is_end_T = second_T == vocabulary.answer_end_id
        second_T = second_T[: int(is_end_T.argmax()) + 1] if is_end_T.any() else second_T
        differs_T = first_T[: second_T.size] != second_T[: first_T.size]
        parting = int(differs_T.argmax()) if differs_T.any() else min(first_T.size, second_T.size)
        first, second = scored(record, [first_T, second_T], codec).decisions_G
        num = int((first.starts_K <= parting).sum())
        num -= first.starts_K[num - 1] >= min(first_T.size, second_T.size)  # one of them has ended there
        assert first.starts_K[:num].tolist() == second.starts_K[:num].tolist()
        np.testing.assert_allclose(first.earned_K[:num], second.earned_K[:num], atol=1e-12)
        np.testing.assert_allclose(first.state_KF[:num], second.state_KF[:num], atol=1e-12)
        num_agreed += num
    assert num_agreed > 200


def test_a_broken_answer_of_thousands_of_tokens_takes_no_time(codec: Codec, vocabulary: Vocabulary) -> None:
    """Boxes of five numbers again and again between right ones: each would cost a reading of its own."""
    record, first = scene(np.random.default_rng(3), "detection"), vocabulary.first_coordinate_id
    head = vocabulary.encode("<|object_ref_start|>red<|object_ref_end|><|box_start|>")
    comma, box = vocabulary.encode(","), [first, first, first + 60, first + 60]
    tokens_T = np.array([*head, *([*box, first, *comma, *box, *comma] * 372)])
    assert tokens_T.size > 4000
    start = time.process_time()
    (decisions, *_) = scored(record, [tokens_T] * 4, codec).decisions_G
    assert time.process_time() - start < 8  # it takes one or two
    assert decisions.starts_K.size < 200
