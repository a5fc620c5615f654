"""The forward pass against transformers' own, and a packed group against its answers one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rex_rl.errors import ModelError
from rex_rl.language.tasks import TASKS, chat_prompt
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.policy import model as model_module
from rex_rl.policy.model import (
    ForwardInputs,
    ImagePreparer,
    TokenStats,
    answer_stats,
    collate,
    load_policy,
    pack_group,
    pack_questions,
    widen_prompt,
)
from rex_rl.policy.positions import GroupLayout, prompt_positions
from tests.support.engines import MAX_PIXELS

LENGTHS = (7, 1, 12, 4)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Any:
    return load_policy(tiny_model).train()


@pytest.fixture(scope="module")
def prepare(tiny_model: Path) -> ImagePreparer:
    return ImagePreparer(tiny_model)


@pytest.fixture(scope="module")
def prompt(vocabulary: Vocabulary) -> list[int]:
    return vocabulary.encode(chat_prompt(TASKS["detection"].question(("red circle", "blue square"))))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_images_are_shrunk_to_the_pixels_asked_for_and_the_folder_remembers(tiny_model: Path, tmp_path: Path) -> None:
    """Engines agree with the learner on the images of tests/actors/weights/test_sync.py, which are larger than this."""
    limited = ImagePreparer(tiny_model, max_pixels=MAX_PIXELS)
    limited.save(tmp_path)
    for prepare in (limited, ImagePreparer(tmp_path)):
        _, grid_3 = prepare(picture(196, 196))
        assert grid_3.tolist() == [1, 12, 12]
    assert ImagePreparer(tiny_model)(picture(196, 196))[1].tolist() == [1, 14, 14]


def random_answers(vocabulary: Vocabulary, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(vocabulary.sampled_ids, length) for length in lengths]


class Packer:
    """Packs answers behind one prompt and one picture."""

    def __init__(self, vocabulary: Vocabulary, prepare: ImagePreparer, prompt: list[int], image: Image.Image) -> None:
        self._vocabulary, self._prepare, self._prompt = vocabulary, prepare, prompt
        self.pixels, self.grid_3 = prepare(image)

    def layout(self, answers: Sequence[np.ndarray]) -> GroupLayout:
        return pack_group(
            self._prompt,
            answers,
            image_token_id=self._vocabulary.image_pad_id,
            grid_3=self.grid_3,
            merge_size=self._prepare.merge_size,
        )

    def questions(self, prompts: Sequence[list[int]], answers: Sequence[np.ndarray]) -> ForwardInputs:
        layout = pack_questions(
            prompts,
            answers,
            image_token_id=self._vocabulary.image_pad_id,
            grid_3=self.grid_3,
            merge_size=self._prepare.merge_size,
        )
        return collate([layout], [self.pixels], [self.grid_3])

    def inputs(self, answers: Sequence[np.ndarray]) -> ForwardInputs:
        return collate([self.layout(answers)], [self.pixels], [self.grid_3])


@pytest.fixture(scope="module")
def packer(vocabulary: Vocabulary, prepare: ImagePreparer, prompt: list[int]) -> Packer:
    return Packer(vocabulary, prepare, prompt, picture(84, 112))


@pytest.fixture(scope="module")
def wide_packer(vocabulary: Vocabulary, prepare: ImagePreparer, prompt: list[int]) -> Packer:
    return Packer(vocabulary, prepare, prompt, picture(140, 56, seed=1))


def gradients(policy: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    policy.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


def weighted(stats: TokenStats, seed: int = 0) -> torch.Tensor:
    """A loss in which every token counts differently."""
    weights_N = torch.from_numpy(np.random.default_rng(seed).normal(size=stats.logprobs_N.numel())).float()
    return (stats.logprobs_N * weights_N).sum() + 0.1 * (stats.entropy_N * weights_N).sum()


def require_same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Each within TOLERANCE of its largest entry; a key's bias has none but rounding, softmax being blind to it."""
    largest = max(gradient.abs().max() for gradient in theirs.values())
    for name, gradient in theirs.items():
        error = (ours[name] - gradient).abs().max()
        assert error <= TOLERANCE * max(gradient.abs().max(), 1e-3 * largest), name


@pytest.mark.parametrize("size", [(196, 196), (84, 112), (28, 280), (301, 77), (640, 480), (1999, 3)])
def test_positions_are_those_of_transformers(
    policy: Any, vocabulary: Vocabulary, prepare: ImagePreparer, prompt: list[int], size: tuple[int, int]
) -> None:
    """For images of any shape that the processor takes; very long ones it refuses."""
    if max(size) / min(size) > 200:
        with pytest.raises(ValueError, match="aspect ratio"):
            prepare(picture(*size))
        return
    _, grid_3 = prepare(picture(*size))
    rows, columns = grid_3[1:] // prepare.merge_size
    tokens_P = widen_prompt(prompt, image_token_id=vocabulary.image_pad_id, num_image_tokens=rows * columns)
    ours_3P = prompt_positions(
        tokens_P, image_token_id=vocabulary.image_pad_id, grid_rows=int(rows), grid_columns=int(columns)
    )
    tokens_1P = torch.from_numpy(tokens_P)[None]
    theirs_31P, _ = policy.model.get_rope_index(
        tokens_1P,
        mm_token_type_ids=(tokens_1P == vocabulary.image_pad_id).int(),
        image_grid_thw=torch.from_numpy(grid_3)[None],
    )
    assert (ours_3P == theirs_31P[:, 0].numpy()).all()


def test_the_forward_pass_is_that_of_transformers(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    """One answer behind the prompt: the same log-probabilities as the model's own forward on the plain sequence."""
    answer_T = random_answers(vocabulary, [9])[0]
    tokens_1S = torch.from_numpy(packer.layout([answer_T]).tokens_S)[None]
    with torch.no_grad():
        logits_SV = policy(
            input_ids=tokens_1S,
            attention_mask=torch.ones_like(tokens_1S),
            pixel_values=packer.pixels,
            image_grid_thw=torch.from_numpy(packer.grid_3)[None],
            mm_token_type_ids=(tokens_1S == vocabulary.image_pad_id).int(),
        ).logits[0]
        ours_T = answer_stats(policy, packer.inputs([answer_T])).logprobs_N
    theirs_T = logits_SV[-10:-1].log_softmax(-1).gather(1, torch.from_numpy(answer_T)[:, None])[:, 0]
    torch.testing.assert_close(ours_T, theirs_T, atol=TOLERANCE, rtol=0)


def test_a_packed_group_equals_its_answers_alone(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    """The shared-prefix law: log-probabilities, entropies, loss and every gradient; the image is forwarded once."""
    answers = random_answers(vocabulary, LENGTHS)
    packed = answer_stats(policy, packer.inputs(answers), temperature=0.7)
    singles = [answer_stats(policy, packer.inputs([answer_T]), temperature=0.7) for answer_T in answers]
    alone = TokenStats(
        logprobs_N=torch.cat([one.logprobs_N for one in singles]),
        entropy_N=torch.cat([one.entropy_N for one in singles]),
    )
    torch.testing.assert_close(packed.logprobs_N, alone.logprobs_N, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(packed.entropy_N, alone.entropy_N, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(weighted(packed), weighted(alone), atol=0, rtol=TOLERANCE)
    require_same_gradients(gradients(policy, weighted(packed)), gradients(policy, weighted(alone)))


def test_questions_about_one_image_equal_each_alone(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    """Records of SFT that share an image: mean loss and every gradient as with an image for each; encoded once."""
    asked = [("red circle",), ("blue square", "red circle"), ("red circle",)]
    prompts = [vocabulary.encode(chat_prompt(TASKS["detection"].question(categories))) for categories in asked]
    answers = random_answers(vocabulary, (7, 1, 5))
    packed = packer.questions(prompts, answers)
    assert packed.grids_B3.shape == (1, 3)
    singles = [packer.questions([prompt], [answer_T]) for prompt, answer_T in zip(prompts, answers, strict=True)]
    assert packed.tokens_BS.numel() < sum(one.tokens_BS.numel() for one in singles)
    together = -answer_stats(policy, packed).logprobs_N.mean()
    alone = -torch.cat([answer_stats(policy, one).logprobs_N for one in singles]).mean()
    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)
    require_same_gradients(gradients(policy, together), gradients(policy, alone))


def test_groups_side_by_side_equal_each_alone(
    policy: Any, packer: Packer, wide_packer: Packer, vocabulary: Vocabulary
) -> None:
    """Images of two sizes, groups of two lengths, padding between them."""
    groups = [(packer, random_answers(vocabulary, LENGTHS)), (wide_packer, random_answers(vocabulary, (3, 2), seed=1))]
    batch = collate(
        [one.layout(answers) for one, answers in groups],
        [one.pixels for one, _ in groups],
        [one.grid_3 for one, _ in groups],
    )
    assert len({one.layout(answers).tokens_S.size for one, answers in groups}) == 2
    together = answer_stats(policy, batch)
    singles = [answer_stats(policy, one.inputs(answers)) for one, answers in groups]
    alone = TokenStats(
        logprobs_N=torch.cat([one.logprobs_N for one in singles]),
        entropy_N=torch.cat([one.entropy_N for one in singles]),
    )
    torch.testing.assert_close(together.logprobs_N, alone.logprobs_N, atol=TOLERANCE, rtol=0)
    require_same_gradients(gradients(policy, weighted(together)), gradients(policy, weighted(alone)))


def test_chunks_of_logits_change_nothing(
    policy: Any, packer: Packer, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = packer.inputs(random_answers(vocabulary, LENGTHS))
    whole = answer_stats(policy, inputs)
    whole_gradients = gradients(policy, weighted(whole))
    monkeypatch.setattr(model_module, "LOGIT_CHUNK_TOKENS", 5)
    cut = answer_stats(policy, inputs)
    torch.testing.assert_close(cut.logprobs_N, whole.logprobs_N, atol=1e-6, rtol=0)
    require_same_gradients(gradients(policy, weighted(cut)), whole_gradients)


def test_checkpointed_layers_change_nothing(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    """`learner.gradient_checkpointing`: a packed group's log-probabilities and every gradient stay."""
    inputs = packer.inputs(random_answers(vocabulary, LENGTHS))
    kept = answer_stats(policy, inputs)
    kept_gradients = gradients(policy, weighted(kept))
    policy.gradient_checkpointing_enable()
    assert policy.is_gradient_checkpointing
    try:
        again = answer_stats(policy, inputs)
        torch.testing.assert_close(again.logprobs_N, kept.logprobs_N, atol=1e-6, rtol=0)
        require_same_gradients(gradients(policy, weighted(again)), kept_gradients)
    finally:
        policy.gradient_checkpointing_disable()


def test_image_features_given_are_those_of_the_pixels(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    inputs = packer.inputs(random_answers(vocabulary, LENGTHS))
    with torch.no_grad():
        features = policy.model.get_image_features(inputs.pixels, inputs.grids_B3).pooler_output
        given = answer_stats(policy, inputs, image_features_KH=torch.cat(features))
        computed = answer_stats(policy, inputs)
    torch.testing.assert_close(given.logprobs_N, computed.logprobs_N, atol=1e-6, rtol=0)


def every_next_token(policy: Any, packer: Packer, ids: np.ndarray, **settings: Any) -> TokenStats:
    """Statistics of each id as an answer of one token: the whole distribution, token by token."""
    with torch.no_grad():
        return answer_stats(policy, packer.inputs(list(ids[:, None])), **settings)


def test_the_masked_distribution_sums_to_one(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    """Over the allowed ids, at any temperature; the entropy is that of this distribution."""
    allowed = torch.from_numpy(vocabulary.sampled_ids)
    for temperature in (1.0, 0.6):
        stats = every_next_token(policy, packer, vocabulary.sampled_ids, temperature=temperature, allowed_ids=allowed)
        chance_N = stats.logprobs_N.double().exp()
        assert chance_N.sum().item() == pytest.approx(1, abs=1e-5)
        entropy = -(chance_N * stats.logprobs_N).sum().item()
        assert stats.entropy_N.numpy() == pytest.approx(entropy, rel=1e-4)


def test_a_barred_id_has_no_chance(policy: Any, packer: Packer, vocabulary: Vocabulary) -> None:
    allowed = torch.from_numpy(vocabulary.sampled_ids)
    stats = every_next_token(policy, packer, np.array([vocabulary.id_of("<|endoftext|>")]), allowed_ids=allowed)
    assert stats.logprobs_N.tolist() == [-np.inf]
    assert stats.entropy_N.isfinite().all()


def test_temperature_divides_the_logits(policy: Any, packer: Packer) -> None:
    ids = np.arange(40)
    warm, cool = (every_next_token(policy, packer, ids, temperature=value).logprobs_N for value in (1.0, 0.5))
    torch.testing.assert_close(cool - cool[0], 2 * (warm - warm[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(196, 196), (30, 30), (500, 333), (64, 900)])
def test_a_widened_prompt_has_a_token_for_every_merged_patch(
    prepare: ImagePreparer, vocabulary: Vocabulary, prompt: list[int], size: tuple[int, int]
) -> None:
    patches, grid_3 = prepare(picture(*size))
    assert patches.shape == (grid_3.prod(), 3 * 2 * 14 * 14)
    num_image_tokens = int(grid_3.prod()) // prepare.merge_size**2
    tokens_P = widen_prompt(prompt, image_token_id=vocabulary.image_pad_id, num_image_tokens=num_image_tokens)
    packed = pack_group(
        prompt, [np.array([1])], image_token_id=vocabulary.image_pad_id, grid_3=grid_3, merge_size=prepare.merge_size
    )
    assert packed.tokens_S[:-1].tolist() == tokens_P.tolist()
    assert (tokens_P == vocabulary.image_pad_id).sum() == num_image_tokens
    assert [token for token in tokens_P if token != vocabulary.image_pad_id] == [
        token for token in prompt if token != vocabulary.image_pad_id
    ]


def test_a_scene_is_not_resized(prepare: ImagePreparer) -> None:
    """The synthetic world's images are 7 x 7 merged patches as they stand."""
    assert prepare(picture(196, 196))[1].tolist() == [1, 14, 14]


def test_several_images_are_prepared_as_one_by_one(prepare: ImagePreparer) -> None:
    images = [picture(84, 112), picture(140, 56, seed=1)]
    patches, grids_B3 = prepare.many(images)
    singles = [prepare(image) for image in images]
    assert torch.equal(patches, torch.cat([one for one, _ in singles]))
    assert grids_B3.tolist() == [grid_3.tolist() for _, grid_3 in singles]


def test_inputs_can_move(packer: Packer, vocabulary: Vocabulary) -> None:
    inputs = packer.inputs(random_answers(vocabulary, (2,)))
    moved = inputs.to(torch.device("meta"))
    assert moved.tokens_BS.device.type == moved.segments_BS.device.type == "meta"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_policy(tmp_path)
