"""The prompt stream: a pure function of seed and position that uses every record once an epoch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.data.stream import PromptStream, evaluation_prompts, sft_batch, split_records
from rex_rl.language.codec import Codec, encode_answer
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.types import FinishReason
from tests.support import fakes

RECORDS = [fakes.record(f"r{i}", boxes=1 + i % 3) for i in range(7)]


@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_a_prompt_depends_on_seed_and_position_only(first: int, count: int, before: int, seed: int) -> None:
    """Asked for at once, in pieces, again, or by another process: the same prompts."""
    stream = PromptStream(records=RECORDS, seed=seed, paraphrase=True)
    prompts = stream.prompts(first, count)
    again = PromptStream(records=list(RECORDS), seed=seed, paraphrase=True)
    start = max(0, first - before)
    assert again.prompts(start, first - start + count)[first - start :] == prompts
    assert [prompt for at in range(first, first + count) for prompt in stream.prompts(at, 1)] == prompts


@given(st.integers(0, 5), st.integers(0, 1000))
def test_an_epoch_uses_every_record_once(epoch: int, seed: int) -> None:
    prompts = PromptStream(records=RECORDS, seed=seed).prompts(epoch * len(RECORDS), len(RECORDS))
    assert Counter(prompt.record.id for prompt in prompts) == Counter(record.id for record in RECORDS)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[str]:
        many = [fakes.record(f"{i}") for i in range(50)]
        return [one.record.id for one in PromptStream(records=many, seed=seed).prompts(50 * epoch, 50)]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_uids_are_unique_over_a_run() -> None:
    uids = [prompt.uid for prompt in PromptStream(records=RECORDS, seed=0).prompts(0, 100)]
    assert len(set(uids)) == 100
    assert uids[3].startswith("000003:")


def test_categories_are_shuffled_and_the_question_names_them_in_that_order() -> None:
    prompts = PromptStream(records=RECORDS, seed=0, paraphrase=True).prompts(0, 60)
    for prompt in prompts:
        assert sorted(prompt.record.categories) == ["cat", "dog"]
        assert ", ".join(prompt.record.categories) in prompt.question
    assert len({prompt.record.categories for prompt in prompts}) == 2


def test_wordings_vary_only_when_asked_to() -> None:
    def wordings(paraphrase: bool) -> set[str]:
        prompts = PromptStream(records=RECORDS, seed=0, paraphrase=paraphrase).prompts(0, 60)
        return {prompt.question.replace(", ".join(prompt.record.categories), "X") for prompt in prompts}

    assert len(wordings(True)) == len(TASKS["detection"].wordings)
    assert wordings(False) == {TASKS["detection"].question(["X"])}


def test_evaluation_asks_officially_in_the_order_of_the_file() -> None:
    prompts = evaluation_prompts(RECORDS)
    assert [prompt.record for prompt in prompts] == RECORDS
    assert {prompt.question for prompt in prompts} == {TASKS["detection"].question(("cat", "dog"))}


@given(st.integers(2, 300), st.floats(0.001, 0.999), st.integers(0, 100))
def test_a_split_holds_back_its_share(count: int, fraction: float, seed: int) -> None:
    """Every record on one side, in the file's order, at least one on each."""
    records = [fakes.record(f"{i}") for i in range(count)]
    train, held = split_records(records, heldout_fraction=fraction, seed=seed)
    assert sorted([*train, *held], key=records.index) == records
    for side in (train, held):
        assert side
        assert side == sorted(side, key=records.index)
    assert len(held) == min(max(1, round(fraction * count)), count - 1)
    assert split_records(records, heldout_fraction=fraction, seed=seed) == (train, held)


def test_an_image_is_on_one_side_of_a_split() -> None:
    """Four questions about each image: no held-out image was trained on, and the share is of images."""
    records = [replace(fakes.record(f"{i}"), image=f"/images/{i // 4}.png") for i in range(400)]
    train, held = split_records(records, heldout_fraction=0.1, seed=0)
    assert len(held) == 40
    assert not {record.image for record in train} & {record.image for record in held}


def test_an_sft_batch_is_the_ground_truth_at_equal_weight_a_token(codec: Codec, vocabulary: Vocabulary) -> None:
    prompts = PromptStream(records=RECORDS, seed=0).prompts(0, 5)
    batch = sft_batch(prompts, codec)
    weights = []
    for prompt, group in zip(prompts, batch, strict=True):
        assert group.prompt is prompt
        (scored,) = group.answers
        text = encode_answer(prompt.record, prompt.record.categories)
        assert vocabulary.decode(scored.answer.tokens_T.tolist()) == text + "<|im_end|>"
        assert scored.answer.finish_reason is FinishReason.STOP
        assert scored.advantages_T.tolist() == [1.0] * scored.answer.tokens_T.size
        weights += [scored.token_weight] * scored.answer.tokens_T.size
    assert len(set(weights)) == 1
    assert sum(weights) == pytest.approx(1)


def test_a_large_data_set_is_not_shuffled_for_every_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of an epoch is drawn once: 22 million records take half a second each time."""
    stream = PromptStream(records=[fakes.record()] * 10, seed=12345)
    stream.prompts(0, 1)
    drawn = []
    original = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or original(seed))
    stream.prompts(1, 9)
    assert [12345, 0, 0] not in drawn
