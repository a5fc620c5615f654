"""The policy network: loading, images, and the one forward pass that SFT, GRPO and pre-training share.

Axes: B groups side by side, S tokens of the longest packed sequence, N answer tokens of all groups, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from rex_rl.errors import ModelError
from rex_rl.policy.attention import SDPA, attention_mask, use_kernel
from rex_rl.policy.cpu_repair import repair
from rex_rl.policy.positions import GroupLayout, lay_out_group, prompt_positions

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

LOGIT_CHUNK_TOKENS = 4096
"""Answer tokens whose logits exist at a time: 4096 x 151,936 in float32 is 2.5 GB at the official vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardInputs:
    """Tensors of B packed groups: everything the network needs, and where to read the answers' log-probabilities."""

    tokens_BS: torch.Tensor
    positions_3BS: torch.Tensor
    segments_BS: torch.Tensor
    pixels: torch.Tensor
    grids_B3: torch.Tensor
    rows_N: torch.Tensor
    predictors_N: torch.Tensor
    targets_N: torch.Tensor

    def to(self, device: torch.device) -> "ForwardInputs":
        """The same on another device."""
        return ForwardInputs(**{name: getattr(self, name).to(device) for name in self.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStats:
    """Per answer token: `logprobs_N` of the token itself and the `entropy_N` of the distribution it was drawn from."""

    logprobs_N: torch.Tensor
    entropy_N: torch.Tensor


def load_policy(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, kernel: str = SDPA
) -> "Qwen2_5_VLForConditionalGeneration":
    """A Qwen2.5-VL network from a Hugging Face folder; raises ModelError when the folder is not one.

    `kernel` is that of its attention (attention.py).
    """
    repair()
    from transformers import Qwen2_5_VLForConditionalGeneration

    if not (Path(folder) / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, so not a model folder")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    use_kernel(model, kernel)
    return model


def pixel_limit(max_pixels: int | None) -> dict[str, int]:
    """`model.max_pixels` as Hugging Face's image processor and vLLM take it; {} leaves the folder's limit.

    >>> pixel_limit(2_007_040), pixel_limit(None)
    ({'max_pixels': 2007040}, {})
    """
    return {} if max_pixels is None else {"max_pixels": max_pixels}


class ImagePreparer:
    """The model folder's own image processor: an image becomes patches, the same that vLLM computes."""

    def __init__(self, folder: str | Path, *, max_pixels: int | None = None) -> None:
        """Images of more than `max_pixels` are shrunk; None takes the folder's limit."""
        repair()
        from transformers import AutoImageProcessor

        self._processor = AutoImageProcessor.from_pretrained(folder, **pixel_limit(max_pixels))

    def save(self, folder: str | Path) -> None:
        """Write its settings into a model folder: whoever loads it prepares images alike."""
        self._processor.save_pretrained(folder)

    def __call__(self, image: Image.Image) -> tuple[torch.Tensor, np.ndarray]:
        """(patches [K, 1176], grid [time, rows, columns] in unmerged patches of 14 px)."""
        patches, grids_B3 = self.many([image])
        return patches, grids_B3[0]

    def many(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, np.ndarray]:
        """The same for several images: their patches one after the other, one grid each [B, 3]."""
        out = self._processor(images=list(images), return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"].numpy()

    @property
    def merge_size(self) -> int:
        """Patches per side that the vision tower merges into one token."""
        return int(self._processor.merge_size)


def widen_prompt(tokens: Sequence[int], *, image_token_id: int, num_image_tokens: int) -> np.ndarray:
    """Replace the single image token of a prompt by `num_image_tokens` of them.

    >>> widen_prompt([1, 9, 2], image_token_id=9, num_image_tokens=3)
    array([1, 9, 9, 9, 2])
    """
    at = list(tokens).index(image_token_id)
    return np.array([*tokens[:at], *[image_token_id] * num_image_tokens, *tokens[at + 1 :]], dtype=np.int64)


def pack_group(
    prompt: Sequence[int], answers: Sequence[np.ndarray], *, image_token_id: int, grid_3: np.ndarray, merge_size: int
) -> GroupLayout:
    """Lay out one group: the prompt's image token widened to its grid, the answers behind it."""
    prompts = [prompt] * len(answers)
    return pack_questions(prompts, answers, image_token_id=image_token_id, grid_3=grid_3, merge_size=merge_size)


def pack_questions(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[np.ndarray],
    *,
    image_token_id: int,
    grid_3: np.ndarray,
    merge_size: int,
) -> GroupLayout:
    """Lay out answers to prompts about one image: the prompts' common start, then the rest of each and its answer."""
    rows, columns = int(grid_3[1]) // merge_size, int(grid_3[2]) // merge_size
    begin = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))]
    tokens_P = widen_prompt(begin, image_token_id=image_token_id, num_image_tokens=rows * columns)
    positions_3P = prompt_positions(tokens_P, image_token_id=image_token_id, grid_rows=rows, grid_columns=columns)
    leads = [np.array(prompt[len(begin) :], dtype=np.int64) for prompt in prompts]
    return lay_out_group(tokens_P, positions_3P, answers, leads)


def collate(
    layouts: Sequence[GroupLayout], pixels: Sequence[torch.Tensor], grids: Sequence[np.ndarray]
) -> ForwardInputs:
    """Stand B groups side by side, padded to the longest of them."""
    num_groups, longest = len(layouts), max(layout.tokens_S.size for layout in layouts)
    tokens_BS = np.zeros((num_groups, longest), dtype=np.int64)
    segments_BS = np.full((num_groups, longest), -1, dtype=np.int64)
    positions_3BS = np.zeros((3, num_groups, longest), dtype=np.int64)
    for row, layout in enumerate(layouts):
        size = layout.tokens_S.size
        tokens_BS[row, :size] = layout.tokens_S
        segments_BS[row, :size] = layout.segments_S
        positions_3BS[:, row, :size] = layout.positions_3S
    rows = [np.full(layout.targets_N.size, row) for row, layout in enumerate(layouts)]
    return ForwardInputs(
        tokens_BS=torch.from_numpy(tokens_BS),
        positions_3BS=torch.from_numpy(positions_3BS),
        segments_BS=torch.from_numpy(segments_BS),
        pixels=torch.cat(list(pixels)),
        grids_B3=torch.from_numpy(np.stack(list(grids))),
        rows_N=torch.from_numpy(np.concatenate(rows)),
        predictors_N=torch.from_numpy(np.concatenate([layout.predictors_N for layout in layouts])),
        targets_N=torch.from_numpy(np.concatenate([layout.targets_N for layout in layouts])),
    )


def answer_stats(
    model: "Qwen2_5_VLForConditionalGeneration",
    inputs: ForwardInputs,
    *,
    temperature: float = 1.0,
    allowed_ids: torch.Tensor | None = None,
    image_features_KH: torch.Tensor | None = None,
) -> TokenStats:
    """Log-probability and entropy of every answer token, under the engine's temperature and token mask.

    `image_features_KH` spares the vision tower where the caller has run it already.

    Only the hidden states that predict an answer token meet the output matrix, in chunks that are recomputed in
    the backward pass: no [tokens, vocabulary] matrix of the whole batch ever exists.
    """
    if image_features_KH is None:
        pictures = {"pixel_values": inputs.pixels, "image_grid_thw": inputs.grids_B3}
    else:
        at_image_BS = (inputs.tokens_BS == model.config.image_token_id)[..., None]
        embedded_BSH = model.get_input_embeddings()(inputs.tokens_BS)
        pictures = {"inputs_embeds": embedded_BSH.masked_scatter(at_image_BS, image_features_KH)}
    hidden_BSH = model.model(
        input_ids=inputs.tokens_BS if image_features_KH is None else None,
        position_ids=inputs.positions_3BS,
        attention_mask=attention_mask(model, inputs.segments_BS),
        use_cache=False,
        **pictures,
    ).last_hidden_state
    hidden_NH = hidden_BSH[inputs.rows_N, inputs.predictors_N]

    def chunk(hidden_CH: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_CV = model.lm_head(hidden_CH).float() / temperature
        if allowed_ids is not None:
            blocked_V = torch.ones(logits_CV.shape[1], dtype=torch.bool, device=logits_CV.device)
            blocked_V[allowed_ids] = False
            logits_CV = logits_CV.masked_fill(blocked_V, float("-inf"))
        logprobs_CV = logits_CV.log_softmax(dim=-1)
        entropy_C = -(logprobs_CV.exp() * logprobs_CV.clamp(min=-1e4)).sum(dim=-1)
        return logprobs_CV.gather(1, targets_C[:, None])[:, 0], entropy_C

    pieces = [
        torch.utils.checkpoint.checkpoint(chunk, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(
            hidden_NH.split(LOGIT_CHUNK_TOKENS), inputs.targets_N.split(LOGIT_CHUNK_TOKENS), strict=True
        )
    ]
    return TokenStats(
        logprobs_N=torch.cat([logprobs for logprobs, _ in pieces]),
        entropy_N=torch.cat([entropy for _, entropy in pieces]),
    )
