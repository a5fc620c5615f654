"""What a Qwen2.5-VL costs: parameters, floating-point operations and bytes, from its sizes alone.

An operation is a multiplication or an addition, so a matrix product of [a, b] x [b, c] takes 2abc. Only work that
counts is counted: attention over the pairs that a mask lets through, logits of answer tokens only, the image once where
it is encoded once. What norms, activations and rotary embeddings take is left out (below 1 %).

Axes: P prompt tokens (image included), T tokens of an answer, G answers of a group.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rex_rl.errors import ModelError

QWEN2_5_VL_3B: Mapping[str, Any] = {
    "text_config": {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128_000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "window_size": 112,
        "tokens_per_second": 2,
    },
    "tie_word_embeddings": True,
    "image_token_id": 151_655,
    "video_token_id": 151_656,
    "vision_start_token_id": 151_652,
    "vision_end_token_id": 151_653,
}
"""config.json of Qwen2.5-VL-3B-Instruct, on which Rex-Omni is built, as far as sizes go."""

PATCH_VALUES = 3 * 2 * 14 * 14
"""Numbers of a patch: 3 colours, 2 time steps, 14 x 14 pixels."""
PATCHES_PER_TOKEN = 4
"""The merger makes one token of 2 x 2 patches."""
PATCH_PX = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The sizes that decide what a model costs."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    tied: bool
    """True where the embedding is the output matrix too."""
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_full_layers: int
    """Vision layers that attend over the whole image; the others stay within windows."""
    window_patches: int
    """Patches of one attention window."""

    @property
    def key_value_width(self) -> int:
        """Numbers of one token's keys, or values, in one layer."""
        return self.hidden // self.heads * self.key_value_heads

    @property
    def key_value_numbers(self) -> int:
        """Numbers a token leaves in the key-value cache."""
        return 2 * self.layers * self.key_value_width


def shape_from_json(config: Mapping[str, Any]) -> ModelShape:
    """Sizes in a Hugging Face config.json; older files hold the language model's at the top level."""
    text, vision = config.get("text_config", config), config["vision_config"]
    return ModelShape(
        vocabulary=text["vocab_size"],
        hidden=text["hidden_size"],
        intermediate=text["intermediate_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        key_value_heads=text["num_key_value_heads"],
        tied=config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
        vision_hidden=vision["hidden_size"],
        vision_intermediate=vision["intermediate_size"],
        vision_layers=vision["depth"],
        vision_full_layers=len(vision["fullatt_block_indexes"]),
        window_patches=(vision.get("window_size", 112) // PATCH_PX) ** 2,
    )


def read_shape(folder: Path) -> ModelShape:
    """Sizes of a model folder; its weights are not needed."""
    file = folder / "config.json"
    try:
        return shape_from_json(json.loads(file.read_text()))
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; a plan needs the model's config.json, but not its weights") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: not the config.json of a Qwen2.5-VL: {error!r}") from error


def parameters_by_part(shape: ModelShape) -> dict[str, int]:
    """Parameters of each part that has a learning rate of its own.

    >>> parts = parameters_by_part(shape_from_json(QWEN2_5_VL_3B))
    >>> parts, sum(parts.values())
    ({'vision': 631975680, 'projector': 36708608, 'language': 3085938688}, 3754622976)
    """
    table = shape.vocabulary * shape.hidden
    language = shape.layers * _layer_parameters(shape) + table * (1 if shape.tied else 2) + shape.hidden
    return {
        "vision": PATCH_VALUES * shape.vision_hidden + shape.vision_layers * _vision_layer_parameters(shape),
        "projector": _merger_parameters(shape) + shape.vision_hidden,  # its norm
        "language": language,
    }


def adapter_parameters(shape: ModelShape, matrices: Mapping[str, Collection[str]], *, rank: int) -> dict[str, int]:
    """Parameters by part of adapters on the named matrices: a matrix [out, in] takes rank * (out + in).

    >>> three = shape_from_json(QWEN2_5_VL_3B)
    >>> adapter_parameters(three, {"language": ["q_proj", "k_proj"]}, rank=16)
    {'language': 3686400}
    """
    width, wide = shape.hidden, shape.intermediate
    sides = {"gate_proj": (width, wide), "up_proj": (width, wide), "down_proj": (wide, width)}
    attention = {"q_proj": (width, width), "o_proj": (width, width)}
    attention |= dict.fromkeys(("k_proj", "v_proj"), (width, shape.key_value_width))
    eyes, eyes_wide = shape.vision_hidden, shape.vision_intermediate
    vision = {"qkv": (eyes, 3 * eyes), "proj": (eyes, eyes), "down_proj": (eyes_wide, eyes)}
    vision |= dict.fromkeys(("gate_proj", "up_proj"), (eyes, eyes_wide))
    merged = PATCHES_PER_TOKEN * eyes
    parts = {
        "language": (shape.layers, sides | attention),
        "vision": (shape.vision_layers, vision),
        "projector": (1, {"mlp.0": (merged, merged), "mlp.2": (merged, width)}),
    }
    return {
        part: parts[part][0] * rank * sum(sum(parts[part][1][name]) for name in names)
        for part, names in matrices.items()
    }


def _layer_parameters(shape: ModelShape) -> int:
    """Query, key and value with bias, output without it; three matrices of the MLP; two norms."""
    query, key = shape.hidden * (shape.hidden + 1), shape.key_value_width * (shape.hidden + 1)
    return query + 2 * key + shape.hidden**2 + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden


def _vision_layer_parameters(shape: ModelShape) -> int:
    """The same with every bias, keys as wide as queries."""
    width, wide = shape.vision_hidden, shape.vision_intermediate
    return 4 * width * (width + 1) + 2 * wide * (width + 1) + width * (wide + 1) + 2 * width


def _merger_parameters(shape: ModelShape) -> int:
    width = PATCHES_PER_TOKEN * shape.vision_hidden
    return width * (width + 1) + shape.hidden * (width + 1)


def image_flops(shape: ModelShape, num_tokens: int) -> float:
    """Operations to encode one image of so many tokens, forward.

    Qwen2.5-VL-3B at 1,280 tokens: 5,120 patches through 32 layers of 19.7 million parameters are 6.47e12, attention
    over the whole image in 4 of them 0.54e12, windows and merger 0.14e12.

    >>> f"{image_flops(shape_from_json(QWEN2_5_VL_3B), 1280):.3g}"
    '7.14e+12'
    """
    patches = PATCHES_PER_TOKEN * num_tokens
    width, wide = shape.vision_hidden, shape.vision_intermediate
    matrices = shape.vision_layers * (4 * width**2 + 3 * width * wide) + PATCH_VALUES * width
    windowed = (shape.vision_layers - shape.vision_full_layers) * min(patches, shape.window_patches)
    keys_seen = shape.vision_full_layers * patches + windowed
    merger = 4 * width * (4 * width + shape.hidden)
    return 2.0 * patches * matrices + 4.0 * patches * keys_seen * width + 2.0 * num_tokens * merger


def layers_flops(shape: ModelShape, *, num_tokens: int, num_pairs: int) -> float:
    """Operations of the language model's layers, forward, for so many tokens and (query, key) pairs of attention.

    One token of Qwen2.5-VL-3B takes 2 x 36 x 77.07 million for its matrices.

    >>> f"{layers_flops(shape_from_json(QWEN2_5_VL_3B), num_tokens=1, num_pairs=1):.4g}"
    '5.549e+09'
    """
    attention = 2 * shape.hidden * (shape.hidden + shape.key_value_width)
    matrices = attention + 3 * shape.hidden * shape.intermediate
    return shape.layers * (2.0 * num_tokens * matrices + 4.0 * num_pairs * shape.hidden)


def logits_flops(shape: ModelShape, num_tokens: int) -> float:
    """Operations of the output matrix on so many tokens, forward."""
    return 2.0 * num_tokens * shape.hidden * shape.vocabulary


def causal_pairs(num_tokens: int, *, seen_before: int = 0) -> int:
    """(query, key) pairs of tokens that each see themselves, those before them, and `seen_before` more.

    >>> causal_pairs(3), causal_pairs(2, seen_before=10)
    (6, 23)
    """
    return num_tokens * (num_tokens + 1) // 2 + num_tokens * seen_before


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Floating-point operations of a forward pass, split where the backward pass and frozen parts differ."""

    vision: float
    layers: float
    logits: float

    @property
    def forward(self) -> float:
        """Sum of all parts."""
        return self.vision + self.layers + self.logits

    def trained(self, *, checkpointing: bool, train_vision: bool, adapters: bool = False) -> float:
        """Forward and backward (twice the forward); logits are always recomputed, layers with checkpointing.

        With adapters the backward pass costs one forward: no gradients of the matrices; the adapters' own are small.

        >>> Work(vision=1.0, layers=10.0, logits=2.0).trained(checkpointing=False, train_vision=True)
        41.0
        >>> Work(vision=1.0, layers=10.0, logits=2.0).trained(checkpointing=True, train_vision=False)
        49.0
        >>> Work(vision=1.0, layers=10.0, logits=2.0).trained(checkpointing=False, train_vision=False, adapters=True)
        27.0
        """
        backward = 1 if adapters else 2
        layers = (2 if checkpointing else 1) + backward
        return self.vision * (layers if train_vision else 1) + self.layers * layers + self.logits * (2 + backward)


def group_work(shape: ModelShape, *, image_tokens: int, prompt_tokens: int, answers: list[int], shared: bool) -> Work:
    """Work of one group of answers of the given lengths: prompt and image once if `shared`, else once per answer.

    >>> three = shape_from_json(QWEN2_5_VL_3B)
    >>> lengths = {"image_tokens": 1280, "prompt_tokens": 1380, "answers": [45] * 8}
    >>> once, each = (group_work(three, **lengths, shared=shared) for shared in (True, False))
    >>> f"{once.forward:.4g} {each.forward:.4g} {each.forward / once.forward:.3g}"
    '1.745e+13 1.23e+14 7.05'
    """
    times = 1 if shared else len(answers)
    num_tokens = times * prompt_tokens + sum(answers)
    pairs = times * causal_pairs(prompt_tokens) + sum(causal_pairs(a, seen_before=prompt_tokens) for a in answers)
    return Work(
        vision=times * image_flops(shape, image_tokens),
        layers=layers_flops(shape, num_tokens=num_tokens, num_pairs=pairs),
        logits=logits_flops(shape, sum(answers)),
    )
