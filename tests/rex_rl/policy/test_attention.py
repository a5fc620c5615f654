"""Both kernels see the same: SDPA's boolean matrix and FlexAttention's blocks are one rule."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from rex_rl.policy.attention import FLEX, SDPA, attention_mask, group_mask, kernel_on, use_kernel
from rex_rl.policy.model import ForwardInputs, answer_stats, collate, load_policy, pack_group

SEGMENTS_BS = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, -1, -1]])


def with_kernel(kernel: str) -> Any:
    return SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(_attn_implementation=kernel)))


def test_the_blocks_hold_the_rule_of_the_matrix() -> None:
    """Every pair of query and key, padding too: its rows must see something, or their softmax is NaN."""
    blocks = attention_mask(with_kernel(FLEX), SEGMENTS_BS)["full_attention"]
    matrix_B1SS = attention_mask(with_kernel(SDPA), SEGMENTS_BS)["full_attention"]
    assert torch.equal(create_mask(blocks.mask_mod, 2, None, 6, 6, device="cpu"), matrix_B1SS)
    assert torch.equal(matrix_B1SS, group_mask(SEGMENTS_BS))
    assert matrix_B1SS.any(dim=-1).all()


def test_the_forward_pass_is_the_same_under_both_kernels(tiny_model: Path) -> None:
    """Log-probabilities of two groups of two lengths; FlexAttention as its own formula, uncompiled, as on no GPU."""
    policy = load_policy(tiny_model)
    inputs = two_groups(policy.config.image_token_id)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        sdpa_N = answer_stats(policy, inputs).logprobs_N
        use_kernel(policy, FLEX)
        flex_N = answer_stats(policy, inputs).logprobs_N
    torch.testing.assert_close(flex_N, sdpa_N, atol=1e-5, rtol=0)


def two_groups(image_token_id: int) -> ForwardInputs:
    rng = np.random.default_rng(0)
    prompt, grid_3 = [5, 6, image_token_id, 7], np.array([1, 4, 6])
    layouts = [
        pack_group(
            prompt,
            [rng.integers(900, size=n) for n in lengths],
            image_token_id=image_token_id,
            grid_3=grid_3,
            merge_size=2,
        )
        for lengths in ((9, 4, 7), (3, 5))
    ]
    pixels = [torch.from_numpy(rng.standard_normal((24, 1176), dtype=np.float32)) for _ in layouts]
    return collate(layouts, pixels, [grid_3] * len(layouts))


@pytest.mark.parametrize(
    ("device", "attention", "kernel"),
    [("cpu", "auto", SDPA), ("cuda", "auto", FLEX), ("cuda", "sdpa", SDPA), ("cpu", "flex", FLEX)],
)
def test_a_gpu_takes_flex_attention_unless_configured(device: str, attention: str, kernel: str) -> None:
    assert kernel_on(torch.device(device), attention) == kernel


def test_the_vision_tower_stays_with_sdpa(tiny_model: Path) -> None:
    policy = load_policy(tiny_model, kernel=FLEX)
    assert policy.config.text_config._attn_implementation == FLEX
    assert policy.config.vision_config._attn_implementation == SDPA
