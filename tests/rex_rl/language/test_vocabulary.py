"""The token layout: found in a folder that has it, refused by name in one that has not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rex_rl.errors import ModelError
from rex_rl.language.vocabulary import (
    ANSWER_END,
    COORDINATE_TOKENS,
    IMAGE_PAD,
    NUM_BINS,
    Vocabulary,
    load_vocabulary,
    text_of,
)
from tests.support.examples import examples

Change = Callable[[dict], None]


def altered(vocabulary: Vocabulary, folder: Path, change: Change) -> Path:
    """A copy of the tokenizer with something changed in its JSON."""
    state = json.loads((vocabulary.folder / "tokenizer.json").read_text())
    change(state)
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


def renamed(old: str, new: str) -> Change:
    def change(state: dict) -> None:
        vocab = state["model"]["vocab"]
        vocab[new] = vocab.pop(old)
        for token in state["added_tokens"]:
            token["content"] = new if token["content"] == old else token["content"]

    return change


def exchange_two_coordinates(state: dict) -> None:
    vocab = state["model"]["vocab"]
    vocab["<7>"], vocab["<8>"] = vocab["<8>"], vocab["<7>"]
    for token in state["added_tokens"]:
        token["content"] = {"<7>": "<8>", "<8>": "<7>"}.get(token["content"], token["content"])


def test_coordinates_stand_in_a_row(vocabulary: Vocabulary) -> None:
    ids = [vocabulary.id_of(token) for token in COORDINATE_TOKENS]
    assert ids == list(range(vocabulary.first_coordinate_id, vocabulary.first_coordinate_id + NUM_BINS))


@pytest.mark.parametrize("token", ["<0>", "<500>", "<999>", "<|box_start|>", ANSWER_END, IMAGE_PAD])
def test_a_missing_token_is_named(vocabulary: Vocabulary, tmp_path: Path, token: str) -> None:
    """A plain Qwen2.5-VL has no coordinates: one line, exit status 2."""
    with pytest.raises(ModelError) as caught:
        load_vocabulary(altered(vocabulary, tmp_path, renamed(token, "<other>")))
    assert token in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_status == 2


def test_coordinates_out_of_order_are_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Loaded with other ids, a model would silently answer other boxes (ENVIRONMENT, trap 15)."""
    with pytest.raises(ModelError, match="<7> has id"):
        load_vocabulary(altered(vocabulary, tmp_path, exchange_two_coordinates))


@pytest.mark.parametrize("content", ["", "{}", "not JSON", '{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_is_the_users_mistake(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read"):
        load_vocabulary(tmp_path)


def test_no_tokenizer_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_vocabulary(tmp_path / "nowhere")


def test_an_answer_may_hold_text_coordinates_and_delimiters_only(vocabulary: Vocabulary) -> None:
    """A sampled image token would crash the learner, an undefined id cannot be decoded."""
    allowed = set(vocabulary.sampled_ids.tolist())
    assert vocabulary.image_pad_id not in allowed
    assert max(allowed) < vocabulary.size
    barred = {vocabulary.pieces[i] for i in range(vocabulary.size) if i not in allowed}
    assert barred == {
        "<|endoftext|>",
        "<|im_start|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    }
    assert {vocabulary.answer_end_id, *map(vocabulary.id_of, COORDINATE_TOKENS)} <= allowed
    assert (np.diff(vocabulary.sampled_ids) > 0).all()


def test_pieces_are_the_ids_both_ways(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.pieces) == vocabulary.size
    assert all(vocabulary.id_of(piece) == i for i, piece in enumerate(vocabulary.pieces) if piece)


@pytest.mark.parametrize("text", ["red circle, None", "naïve “quotes” 猫", "<|box_start|><0><999>, <1><2><|box_end|>"])
def test_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(st.text(max_size=20))
@examples(2)
def test_joined_texts_are_what_the_tokenizer_decodes(vocabulary: Vocabulary, text: str) -> None:
    """One letter a byte, so that a letter whose bytes stand in several tokens comes back whole."""
    assume(text.encode(errors="replace").decode() == text)
    ids = vocabulary.encode(text)
    assert text_of("".join(vocabulary.texts[token_id] for token_id in ids)) == vocabulary.decode(ids)


def test_every_byte_has_a_token_of_its_own(vocabulary: Vocabulary) -> None:
    assert {chr(byte) for byte in range(256)} <= set(vocabulary.texts)
