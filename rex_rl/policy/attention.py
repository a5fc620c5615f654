"""The attention kernel of packed groups, and the mask in the form that each kernel takes.

Axes: B groups side by side, S tokens of the longest packed sequence.
"""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

SDPA, FLEX = "sdpa", "rex_flex"
"""Names for Transformers: PyTorch's attention with an explicit mask, and FlexAttention, which skips masked blocks.

Transformers 5.19 refuses its own name `flex_attention` for Qwen2.5-VL, so its function is registered under one of ours.
"""


def kernel_on(device: torch.device, attention: str) -> str:
    """Name of the kernel for `learner.attention`: `sdpa`, `flex`, or `auto`, which is flex on a GPU.

    >>> [kernel_on(torch.device(device), "auto") for device in ("cpu", "cuda")]
    ['sdpa', 'rex_flex']
    """
    flex = attention == "flex" or (attention == "auto" and device.type == "cuda")
    return FLEX if flex else SDPA


def use_kernel(model: "Qwen2_5_VLForConditionalGeneration", kernel: str) -> None:
    """Set the language model's attention kernel; the vision tower, whose windows need no mask, stays with SDPA."""
    from transformers import AttentionInterface
    from transformers.integrations.flex_attention import flex_attention_forward

    AttentionInterface.register(FLEX, flex_attention_forward)
    model.set_attn_implementation({"text_config": kernel, "vision_config": SDPA})


def attention_mask(model: "Qwen2_5_VLForConditionalGeneration", segments_BS: torch.Tensor) -> dict[str, Any]:
    """The mask of packed groups for the model's kernel, as Qwen2.5-VL's `attention_mask` takes it.

    `segments_BS` is 0 for the prompt, 1..G for the answers and -1 for padding, which sees padding only.
    """
    flex = model.config.text_config._attn_implementation == FLEX
    return {"full_attention": _group_blocks(segments_BS) if flex else group_mask(segments_BS)}


def group_mask(segments_BS: torch.Tensor) -> torch.Tensor:
    """[B, 1, S, S], true where a query may look: backwards, at the prompt (segment 0) or at its own answer.

    >>> group_mask(torch.tensor([[0, 1, 2]]))[0, 0].int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 0, 1]], dtype=torch.int32)
    """
    query, key = segments_BS[:, :, None], segments_BS[:, None, :]
    size = segments_BS.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=segments_BS.device).tril()
    return (causal & ((key == 0) | (key == query)))[:, None]


def _group_blocks(segments_BS: torch.Tensor) -> Any:
    """The same rule as FlexAttention's block mask; on a GPU compiled, so that no [S, S] matrix exists."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        of_key = segments_BS[row, key]
        return (query >= key) & ((of_key == 0) | (of_key == segments_BS[row, query]))

    size = segments_BS.shape[1]
    device = segments_BS.device
    on_gpu = device.type == "cuda"
    return create_block_mask(visible, segments_BS.shape[0], None, size, size, device=device.type, _compile=on_gpu)
