"""What the project must know of a model's tokenizer: which id is which coordinate, special token or piece of text.

Reads `tokenizer.json` with the small `tokenizers` library, so that a command which only scores answers imports
neither torch nor transformers.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from rex_rl.errors import ModelError

NUM_BINS = 1000
"""Coordinate tokens `<0>`..`<999>` (paper section 2.4); the grid of codec.py has as many lines."""

COORDINATE_TOKENS = tuple(f"<{value}>" for value in range(NUM_BINS))
OBJECT_START, OBJECT_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
ANSWER_END = "<|im_end|>"
IMAGE_PAD = "<|image_pad|>"
_DELIMITERS = (OBJECT_START, OBJECT_END, BOX_START, BOX_END, ANSWER_END)
SPACES = " \n\t\r"
_VISIBLE_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF_LETTER = dict(enumerate((byte for byte in range(256) if byte not in _VISIBLE_BYTES), start=256))
"""Byte-level BPE writes a visible byte as its own letter, the others, in order, as letters from U+0100 on."""


@dataclass(frozen=True)
class Vocabulary:
    """The token layout of one model folder; build it with :func:`load_vocabulary`."""

    tokenizer: Tokenizer = field(repr=False)
    folder: Path

    @cached_property
    def first_coordinate_id(self) -> int:
        """Id of `<0>`; `<k>` is this plus k."""
        return self.id_of(COORDINATE_TOKENS[0])

    @cached_property
    def size(self) -> int:
        """Ids at or above this are undefined; a sampled one cannot be decoded."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    @cached_property
    def answer_end_id(self) -> int:
        """Id that ends an answer."""
        return self.id_of(ANSWER_END)

    @cached_property
    def image_pad_id(self) -> int:
        """Id that stands for one merged image patch in a prompt."""
        return self.id_of(IMAGE_PAD)

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """[size] the tokenizer's raw piece of every id (byte-level alphabet for text), "" where none is defined."""
        table = [""] * self.size
        for text, token_id in self.tokenizer.get_vocab(with_added_tokens=True).items():
            table[token_id] = text
        return tuple(table)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """[size] the bytes of every id as Latin-1 text, one letter a byte; "" where none is defined.

        Texts of neighbours may share a letter's bytes: join them, then read them by :func:`text_of`.
        """
        table = [piece.translate(_BYTE_OF_LETTER) for piece in self.pieces]
        for token_id, token in self.tokenizer.get_added_tokens_decoder().items():
            table[token_id] = token.content.encode().decode("latin-1")
        return tuple(table)

    @cached_property
    def space_ids(self) -> frozenset[int]:
        """Ids whose text is only blanks and line ends."""
        return frozenset(i for i, text in enumerate(self.texts) if text and not text.strip(SPACES))

    @cached_property
    def sampled_ids(self) -> np.ndarray:
        """Ids an answer may contain: text, coordinates, the grammar's delimiters and the end; sorted.

        The other special tokens and undefined ids are masked while sampling and, with the same mask, in the
        learner: a sampled `<|image_pad|>` would crash the learner, an undefined id cannot be decoded.
        """
        kept = {*COORDINATE_TOKENS, *_DELIMITERS}
        special = {
            token_id
            for token_id, token in self.tokenizer.get_added_tokens_decoder().items()
            if token.special and token.content not in kept
        }
        return np.array([i for i in range(self.size) if i not in special and self.pieces[i]], dtype=np.int64)

    def id_of(self, text: str) -> int:
        """Id of a token that must exist."""
        token_id = self.tokenizer.token_to_id(text)
        if token_id is None:
            raise ModelError(f"{self.folder}: the tokenizer has no token {text!r}; is it a Rex-Omni model?")
        return int(token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are written out."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: list[int]) -> str:
        """Text of token ids, special tokens written out."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False))


def text_of(latin: str) -> str:
    """The text of joined :attr:`Vocabulary.texts`; bytes that are not UTF-8 become U+FFFD.

    >>> text_of("caf\u00c3\u00a9"), text_of("\u00c3")
    ('café', '\ufffd')
    """
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Read a model folder's tokenizer and check that the 1,000 coordinate tokens are there, in a row.

    Raises ModelError (exit status 2) naming what is missing.
    """
    folder = Path(folder)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{folder}: no tokenizer.json, so not a model folder that can be used")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise ModelError(f"{file}: cannot be read as a tokenizer ({error!s:.80})") from error
    vocabulary = Vocabulary(tokenizer, folder)
    first = vocabulary.id_of(COORDINATE_TOKENS[0])
    for expected, token in enumerate(COORDINATE_TOKENS, start=first):
        if (found := vocabulary.id_of(token)) != expected:
            raise ModelError(f"{folder}: {token} has id {found}, expected {expected}")
    for delimiter in (*_DELIMITERS, IMAGE_PAD):
        vocabulary.id_of(delimiter)
    return vocabulary
