"""`rex-rl bench learner`: forward and backward of a group with a shared prompt, against one prompt per answer.

Plain is what other systems do: G rows of prompt, image and answer side by side, padded to the longest, the image
encoded G times. Both use the learner's own functions (rex_rl/policy/model.py); the bench fails if their losses differ.

Axes: G answers of a group, P prompt tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rex_rl.bench.figure import Figure, median_s
from rex_rl.errors import RunError, UserError
from rex_rl.plan.gpus import peak_of
from rex_rl.plan.model_costs import PATCH_VALUES, QWEN2_5_VL_3B, group_work, shape_from_json
from rex_rl.policy.attention import SDPA, kernel_on, use_kernel
from rex_rl.policy.cpu_repair import repair
from rex_rl.policy.model import ForwardInputs, answer_stats, collate, pack_group

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

GROUP_SIZE = 8
TEXT_TOKENS = 48
TINY_IMAGE_TOKENS = 256
TINY_ANSWER_TOKENS = 30
LARGE_IMAGE_TOKENS = 1280
LARGE_TEXT_TOKENS = 100
LARGE_ANSWER_TOKENS = (45, 128, 439)
"""COCO, in between, Dense200 (paper, table 17)."""
MERGE_SIZE = 2
ROUNDS = 5
LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Tolerance of the mean negative log-likelihood, which is about 7 (tiny) or 12 (3B) nats with random weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSize:
    """Sizes of a group; answers differ in length by up to a fifth around `answer_tokens`."""

    image_tokens: int
    text_tokens: int
    answer_tokens: int
    num_answers: int = GROUP_SIZE

    @property
    def prompt_tokens(self) -> int:
        """Text and image tokens of the prompt."""
        return self.text_tokens + self.image_tokens

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer, evenly spread."""
        spread = np.linspace(0.8, 1.2, self.num_answers)
        return [max(1, round(self.answer_tokens * share)) for share in spread]


class GroupBench:
    """One random group under one model, packed both ways."""

    def __init__(self, model: "Qwen2_5_VLForConditionalGeneration", size: GroupSize, *, seed: int = 0) -> None:
        self._model, self.size = model, size
        rng = np.random.default_rng(seed)
        config = model.config
        # Below the special tokens, in either vocabulary.
        top = min(config.image_token_id, config.text_config.vocab_size) - 100
        prompt = [*rng.integers(top, size=8), config.image_token_id, *rng.integers(top, size=size.text_tokens - 8)]
        answers = [rng.integers(top, size=length) for length in size.lengths]
        rows = _rows_of(size.image_tokens)
        grid_3 = np.array([1, rows * MERGE_SIZE, size.image_tokens // rows * MERGE_SIZE])
        patches = torch.from_numpy(rng.standard_normal((int(grid_3.prod()), PATCH_VALUES), dtype=np.float32))

        def pack(parts: Sequence[Sequence[np.ndarray]]) -> ForwardInputs:
            kind: Any = {"image_token_id": config.image_token_id, "grid_3": grid_3, "merge_size": MERGE_SIZE}
            layouts = [pack_group(prompt, part, **kind) for part in parts]
            pixels = [patches.to(model.dtype)] * len(parts)
            return collate(layouts, pixels, [grid_3] * len(parts)).to(model.device)

        self._inputs = {True: pack([answers]), False: pack([[answer] for answer in answers])}

    def loss(self, *, shared: bool) -> torch.Tensor:
        """Mean negative log-likelihood of all answer tokens."""
        return -answer_stats(self._model, self._inputs[shared]).logprobs_N.mean()

    def train(self, *, shared: bool) -> torch.Tensor:
        """Forward and backward; returns the loss."""
        self._model.zero_grad(set_to_none=True)
        loss = self.loss(shared=shared)
        loss.backward()
        if loss.is_cuda:
            torch.cuda.synchronize()
        return loss.detach()

    def require_same_loss(self) -> None:
        """Raise where the two losses differ: a comparison of times would mean nothing."""
        with torch.no_grad():
            shared, plain = (float(self.loss(shared=way)) for way in (True, False))
        if not abs(shared - plain) <= LOSS_TOLERANCE[self._model.dtype]:
            raise RunError(f"bench learner: loss {shared:.6f} with the prefix shared, {plain:.6f} without")

    def activation_bytes(self, *, shared: bool) -> int:
        """Bytes the forward pass keeps for the backward pass: saved tensors by storage, without the weights."""
        with saved_storages(skip=self._model.parameters()) as kept:
            self.loss(shared=shared)
        return sum(kept.values())

    def cuda_peak_bytes(self, *, shared: bool) -> int:
        """Peak of allocated memory over a forward and backward pass, above weights and their gradients."""
        self.train(shared=shared)  # from here on the gradients exist
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.loss(shared=shared).backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def _rows_of(num_tokens: int) -> int:
    """Rows of the squarest grid with this many merged patches.

    >>> [_rows_of(num) for num in (256, 1280, 12)]
    [16, 32, 3]
    """
    return next(rows for rows in range(isqrt(num_tokens), 0, -1) if num_tokens % rows == 0)


@contextmanager
def saved_storages(*, skip: Iterator[torch.nn.Parameter]) -> Iterator[dict[int, int]]:
    """Address -> bytes of every storage kept by the graph built inside; each counts once, however often it is saved."""
    kept: dict[int, int] = {}
    skipped = {parameter.untyped_storage().data_ptr() for parameter in skip}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skipped:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def bench_learner() -> list[Figure]:
    """Figures of the tiny model in float32, on the CPU."""
    from rex_rl.shapes.tiny import build_model, default_tokenizer

    model = build_model(default_tokenizer(), seed=0).train()
    use_kernel(model, SDPA)
    size = GroupSize(image_tokens=TINY_IMAGE_TOKENS, text_tokens=TEXT_TOKENS, answer_tokens=TINY_ANSWER_TOKENS)
    bench = GroupBench(model, size)
    bench.require_same_loss()
    what = f"{GROUP_SIZE} answers of about {TINY_ANSWER_TOKENS} tokens behind {size.prompt_tokens}"
    return [
        _speedup(bench, name="learner_speedup", what=what),
        _against_plain(
            "learner_memory",
            [bench.activation_bytes(shared=way) / 2**20 for way in (True, False)],
            unit="MiB",
            meaning=f"kept for the backward pass, {what}; baseline: every answer with its own prompt",
        ),
    ]


def bench_learner_3b() -> list[Figure]:
    """Figures of Qwen2.5-VL-3B's shapes: random weights in bfloat16, on a GPU, with gradient checkpointing."""
    if not torch.cuda.is_available():
        raise UserError(
            "bench learner --shapes 3b: needs a GPU that torch sees, with 60 GB at least, and there is none"
        )
    model = random_model(QWEN2_5_VL_3B, device="cuda")
    figures = []
    for answer_tokens in LARGE_ANSWER_TOKENS:
        size = GroupSize(image_tokens=LARGE_IMAGE_TOKENS, text_tokens=LARGE_TEXT_TOKENS, answer_tokens=answer_tokens)
        figures += _large_figures(GroupBench(model, size))
        torch.cuda.empty_cache()
    return figures


def random_model(config: Any, *, device: str) -> "Qwen2_5_VLForConditionalGeneration":
    """A network of the given config.json with random weights in bfloat16 and gradient checkpointing."""
    repair()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    finally:
        torch.set_default_dtype(before)
    use_kernel(model, kernel_on(torch.device(device), "auto"))
    model.gradient_checkpointing_enable()  # without it eight plain rows of 1,380 tokens and an image do not fit
    return model.train()


def _large_figures(bench: GroupBench) -> list[Figure]:
    """Time, rate, share of the GPU's peak and memory of one answer length."""
    bench.require_same_loss()
    size = bench.size
    suffix = f"_{size.answer_tokens}"
    what = f"{GROUP_SIZE} answers of about {size.answer_tokens} tokens behind {size.prompt_tokens}, 3B in bfloat16"
    time = _speedup(bench, name=f"learner_speedup{suffix}", what=what)
    assert time.baseline is not None
    seconds = {True: time.value / 1e3, False: time.baseline / 1e3}
    rates = [sum(size.lengths) / seconds[way] for way in (True, False)]
    figures = [time, _more(f"learner_tokens_per_s{suffix}", rates, unit="answer tokens/s", what=what)]
    peak = peak_of(torch.cuda.get_device_name())
    if peak is not None:
        shares = [_trained_flops(size, shared=way) / seconds[way] / peak for way in (True, False)]
        meaning = f"{what}; useful operations, vision tower counted, recomputation not"
        figures.append(_more(f"learner_mfu{suffix}", shares, unit="of peak", what=meaning))
    peaks = [bench.cuda_peak_bytes(shared=way) / 2**20 for way in (True, False)]
    meaning = f"peak above weights and gradients, {what}, gradient checkpointing; baseline: plain"
    return [*figures, _against_plain(f"learner_memory{suffix}", peaks, unit="MiB", meaning=meaning)]


def _trained_flops(size: GroupSize, *, shared: bool) -> float:
    """FLOPs of forward and backward of a group, packed either way; work done twice to save memory counts once."""
    work = group_work(
        shape_from_json(QWEN2_5_VL_3B),
        image_tokens=size.image_tokens,
        prompt_tokens=size.prompt_tokens,
        answers=size.lengths,
        shared=shared,
    )
    return 3 * work.forward


def _speedup(bench: GroupBench, *, name: str, what: str) -> Figure:
    works = [partial(bench.train, shared=way) for way in (True, False)]
    milliseconds = [taken * 1e3 for taken in median_s(*works, rounds=ROUNDS)]
    meaning = f"forward and backward, {what}; baseline: every answer with its own prompt and image"
    return _against_plain(name, milliseconds, unit="ms", meaning=meaning)


def _against_plain(name: str, both: list[float], *, unit: str, meaning: str) -> Figure:
    """A figure of `both` [shared, plain], of which less is better."""
    shared, plain = both
    return Figure(name=name, value=shared, unit=unit, baseline=plain, ratio=plain / shared, meaning=meaning)


def _more(name: str, both: list[float], *, unit: str, what: str) -> Figure:
    """A figure of `both` [shared, plain], of which more is better."""
    shared, plain = both
    meaning = f"{what}; baseline: plain"
    return Figure(name=name, value=shared, unit=unit, baseline=plain, ratio=shared / plain, meaning=meaning)
