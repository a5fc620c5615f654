"""Weights on their way from the learner to the rollout workers: buckets, digests, and the manifest of a version."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

BUCKET_BYTES = 256 * 2**20
"""Tensors are sent in buckets of about this size: one layer of a 3B model is about 150 MB in bfloat16."""

VISION_PREFIX = "model.visual."


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Where a tensor stands in its bucket's bytes."""

    name: str
    dtype: str
    """torch's name without the prefix, such as `bfloat16`."""
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Some tensors in one flat byte array, with the xxh3 digest of those bytes."""

    specs: tuple[TensorSpec, ...]
    data: np.ndarray
    digest: str

    def is_intact(self) -> bool:
        """True when the bytes still have the digest they were sent with."""
        return digest_of(self.data) == self.digest

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) pairs; the tensors are copies, since arrays from Ray's object store are read-only."""
        for spec in self.specs:
            raw = torch.from_numpy(self.data[spec.start : spec.end].copy())
            yield spec.name, raw.view(getattr(torch, spec.dtype)).reshape(spec.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a version consists of: digests of its buckets in order, and one of the vision tower alone."""

    version: int
    digests: tuple[str, ...]
    vision_digest: str
    num_bytes: int

    @property
    def digest(self) -> str:
        """One digest for the whole version."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()[:16]


def digest_of(data: np.ndarray) -> str:
    """xxh3-64 of the bytes; faster than a memory copy, where SHA-256 runs at a fifth of one."""
    return xxhash.xxh3_64_hexdigest(data.data)


def tensor_bytes(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's bytes as a flat uint8 array (bfloat16 has no NumPy type)."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def fill_buckets(named: Iterable[tuple[str, torch.Tensor]], *, bucket_bytes: int = BUCKET_BYTES) -> Iterator[Bucket]:
    """Pack named tensors into buckets, in order; a tensor larger than a bucket gets one of its own."""
    specs: list[TensorSpec] = []
    pieces: list[np.ndarray] = []
    filled = 0
    for name, tensor in named:
        raw = tensor_bytes(tensor)
        if pieces and filled + raw.size > bucket_bytes:
            yield _close(specs, pieces)
            specs, pieces, filled = [], [], 0
        dtype = str(tensor.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name=name, dtype=dtype, shape=tuple(tensor.shape), start=filled, end=filled + raw.size))
        pieces.append(raw)
        filled += raw.size
    if pieces:
        yield _close(specs, pieces)


def _close(specs: list[TensorSpec], pieces: list[np.ndarray]) -> Bucket:
    data = np.concatenate(pieces)
    return Bucket(specs=tuple(specs), data=data, digest=digest_of(data))
