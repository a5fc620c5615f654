"""The tiny model: the official token layout in small, which transformers keeps, and a network that can be loaded."""

from pathlib import Path
from typing import Any

import pytest

from rex_rl.language.tasks import TASKS, chat_prompt
from rex_rl.language.vocabulary import COORDINATE_TOKENS, Vocabulary, load_vocabulary
from rex_rl.policy.model import load_policy
from rex_rl.shapes.tiny import NUM_TEXT_TOKENS, ROW_MULTIPLE, SPECIAL_TOKENS, build_model, default_tokenizer
from rex_rl.shapes.world import LABELS

ANSWER = (
    "<|object_ref_start|>red circle<|object_ref_end|><|box_start|><0><17><999><998>,<1><2><3><4><|box_end|><|im_end|>"
)


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Any:
    return load_policy(tiny_model)


@pytest.fixture(scope="module")
def auto_tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_the_layout_is_rex_omnis(vocabulary: Vocabulary) -> None:
    """Text, then `<0>`..`<999>`, then `<|endoftext|>` directly above, then Qwen's special tokens in their order."""
    first = vocabulary.first_coordinate_id
    assert vocabulary.id_of("<|endoftext|>") == first + 1000
    assert [vocabulary.id_of(token) for token in SPECIAL_TOKENS] == list(range(first + 1000, first + 1014))
    assert vocabulary.size == first + 1000 + len(SPECIAL_TOKENS)
    assert 256 <= first <= NUM_TEXT_TOKENS


def test_answers_about_the_world_take_few_tokens(vocabulary: Vocabulary) -> None:
    """A label takes two or three tokens, so that an answer is mostly coordinates."""
    assert all(len(vocabulary.encode(f" {label}")) == 2 for label in LABELS)
    assert all(len(vocabulary.encode(label)) <= 4 for label in LABELS)
    assert len(vocabulary.encode("None")) <= 2
    assert len(vocabulary.encode(chat_prompt(TASKS["detection"].question(LABELS[:3])))) < 90


def test_any_text_can_be_written(vocabulary: Vocabulary) -> None:
    text = "Zürich, 猫 🙂 \x00\n\t<x>"
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_transformers_reads_the_same_ids(auto_tokenizer: Any, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """As it is, and after transformers has saved and read it again."""
    auto_tokenizer.save_pretrained(tmp_path)
    again = load_vocabulary(tmp_path)
    for text in (ANSWER, chat_prompt("Detect red circle."), "".join(COORDINATE_TOKENS)):
        ids = vocabulary.encode(text)
        assert auto_tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        assert again.encode(text) == ids
        assert auto_tokenizer.decode(ids, skip_special_tokens=False, spaces_between_special_tokens=False) == text
    assert again.pieces == vocabulary.pieces


def test_the_chat_template_is_the_official_frame(tiny_model: Path) -> None:
    """`chat_prompt` and the folder's own template, which other programs use, give the same text."""
    from transformers import AutoProcessor

    messages = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Detect red circle."}]},
    ]
    processor = AutoProcessor.from_pretrained(tiny_model)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == chat_prompt("Detect red circle.")


def test_the_network_fits_the_tokenizer(policy: Any, vocabulary: Vocabulary) -> None:
    """Rows for every id, a multiple of 64, the output matrix tied; about two million parameters."""
    rows = policy.get_input_embeddings().weight.shape[0]
    assert rows % ROW_MULTIPLE == 0
    assert vocabulary.size <= rows < vocabulary.size + ROW_MULTIPLE
    assert policy.config.image_token_id == vocabulary.image_pad_id
    assert policy.lm_head.weight is policy.get_input_embeddings().weight
    assert 1e6 < sum(parameter.numel() for parameter in policy.parameters()) < 4e6


def test_neighbouring_coordinates_start_alike(policy: Any, vocabulary: Vocabulary) -> None:
    first = vocabulary.first_coordinate_id
    rows_BH = policy.get_input_embeddings().weight[first : first + 1000].detach()
    rows_BH = rows_BH / rows_BH.norm(dim=1, keepdim=True)
    likeness = rows_BH @ rows_BH.T
    assert likeness.diagonal(offset=1).min() > 0.9
    assert likeness.diagonal(offset=300).abs().mean() < 0.5


def test_a_seed_gives_one_model(policy: Any) -> None:
    """What was built is what was saved and loaded; another seed gives another."""
    tokenizer = default_tokenizer()
    for seed, alike in ((0, True), (1, False)):
        built = build_model(tokenizer, seed=seed).state_dict()
        assert all(value.equal(built[name]) for name, value in policy.state_dict().items()) is alike
