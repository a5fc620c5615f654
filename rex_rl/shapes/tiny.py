"""A tiny Qwen2.5-VL: the same architecture and the official token layout, a few million parameters.

Token layout, as in Rex-Omni (reference: ids 150643..151642 of the released tokenizer are `<0>`..`<999>`, right
below `<|endoftext|>`): byte-level text tokens, then the 1,000 coordinate tokens, then Qwen's special tokens in
their order, then undefined rows up to a multiple of 64.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rex_rl.language.vocabulary import COORDINATE_TOKENS
from rex_rl.policy.cpu_repair import repair
from rex_rl.policy.model_folder import SHIPPED_BASE
from rex_rl.shapes.world import LABELS

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
"""Qwen2.5-VL's first special tokens, in its order (ids 151643..151656 there)."""

NUM_TEXT_TOKENS = 512
ROW_MULTIPLE = 64
IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation, which Qwen2.5-VL uses."""

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenisation pattern (interface string, transformers' Qwen2Tokenizer)."""

_PROCESSOR_FILES = (
    *("tokenizer_config.json", "chat_template.json", "preprocessor_config.json", "video_preprocessor_config.json"),
)
"""Taken from the shipped base, whatever the tokenizer."""


def build_tokenizer(corpus: list[str]) -> Tokenizer:
    """A byte-level BPE of `NUM_TEXT_TOKENS` text tokens learned from `corpus`, in the official layout."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=NUM_TEXT_TOKENS, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(corpus, trainer)
    state = json.loads(bpe.to_str())
    vocab = state["model"]["vocab"]
    for offset, text in enumerate((*COORDINATE_TOKENS, *SPECIAL_TOKENS), start=len(vocab)):
        vocab[text] = offset
    tokenizer = Tokenizer.from_str(json.dumps(state))
    added = [AddedToken(text, special=True, normalized=False) for text in (*COORDINATE_TOKENS, *SPECIAL_TOKENS)]
    tokenizer.add_special_tokens(added)
    return tokenizer


def build_config(tokenizer: Tokenizer) -> "Qwen2_5_VLConfig":
    """Sizes of the shipped base, about 2 million parameters, with the ids of a tokenizer."""
    repair()
    from transformers import Qwen2_5_VLConfig

    config, id_of = Qwen2_5_VLConfig.from_pretrained(SHIPPED_BASE), tokenizer.token_to_id
    config.dtype = config.text_config.dtype = config.vision_config.dtype = None  # the shipped one is in bfloat16
    config.text_config.vocab_size = -(-tokenizer.get_vocab_size() // ROW_MULTIPLE) * ROW_MULTIPLE
    config.text_config.bos_token_id = config.text_config.pad_token_id = id_of("<|endoftext|>")
    config.text_config.eos_token_id = id_of("<|im_end|>")
    config.image_token_id, config.video_token_id = id_of("<|image_pad|>"), id_of("<|video_pad|>")
    config.vision_start_token_id, config.vision_end_token_id = id_of("<|vision_start|>"), id_of("<|vision_end|>")
    return config


def build_model(tokenizer: Tokenizer, *, seed: int) -> "Qwen2_5_VLForConditionalGeneration":
    """A freshly initialised model whose coordinate rows start as smooth Fourier features of their value.

    Neighbouring coordinates then begin alike, as in the rows of a trained Rex-Omni; from independent rows the tiny
    model spends most of its training discovering that 500 and 501 are neighbours.
    """
    repair()
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    table = model.get_input_embeddings().weight
    value = torch.arange(len(COORDINATE_TOKENS)) / len(COORDINATE_TOKENS)
    half = table.shape[1] // 2
    wavenumber = torch.pi * torch.logspace(0, np.log10(80), half)  # from half a wave over the canvas to 40 waves
    angle = value[:, None] * wavenumber[None, :]
    features = torch.cat([angle.sin(), angle.cos()], dim=1) * table.std()
    first = tokenizer.get_vocab(with_added_tokens=True)[COORDINATE_TOKENS[0]]
    with torch.no_grad():
        table[first : first + len(COORDINATE_TOKENS)] = features * 2**0.5
    return model


def write_random_model(folder: Path) -> Path:
    """A model folder with random weights in float32, whose answers hardly ever end before their limit."""
    tokenizer = default_tokenizer()
    write_processor_files(folder, tokenizer)
    build_model(tokenizer, seed=0).save_pretrained(folder)
    return folder


def write_processor_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Write tokenizer, image and video processor and chat template the way transformers and vLLM expect them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in _PROCESSOR_FILES:
        shutil.copyfile(SHIPPED_BASE / name, folder / name)
    (folder / "generation_config.json").write_text('{"do_sample": false}\n')  # the base's names ids of its own tokens


def default_tokenizer() -> Tokenizer:
    """The tokenizer of the shapes world: its prompts and labels, learned from a fixed corpus."""
    from rex_rl.language.tasks import TASKS

    corpus = [
        "You are a helpful assistant",
        "system\nuser\nassistant\n",
        "None",
        "Describe the picture.",
        *(template for task in TASKS.values() for template in (task.template, *task.paraphrases)),
        *(f" {label}, {label}" for label in LABELS),
    ]
    return build_tokenizer([f"{line}" for line in corpus for _ in range(4)])
