"""Weights on their way from the learner to the rollout workers: buckets and digests."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

BUCKET_BYTES = 256 * 2**20
"""Tensors are sent in buckets of about this size: one layer of a 3B model is about 150 MB in bfloat16."""

VISION_PREFIX = "model.visual."


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedTensor:
    """A named tensor as its bytes."""

    name: str
    dtype: str
    """torch's name without the prefix, such as `bfloat16`."""
    shape: tuple[int, ...]
    data: np.ndarray
    """Flat uint8: a view of the weights on the sending side, of Ray's object store on the receiving side."""

    def tensor(self) -> torch.Tensor:
        """The tensor on these bytes: to copy from, not to write to, as the object store's bytes are read-only."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors and says so
            raw = torch.from_numpy(self.data)
        return raw.view(getattr(torch, self.dtype)).reshape(self.shape)


Bucket = tuple[PackedTensor, ...]
"""Tensors sent as one object: each is copied once on either side and never joined to its neighbours."""


def tensor_digests(bucket: Bucket) -> tuple[str, ...]:
    """One digest a tensor, in order."""
    return tuple(digest_of(packed.data) for packed in bucket)


def digest_of(data: np.ndarray) -> str:
    """xxh3-64 of the bytes; faster than a memory copy, where SHA-256 runs at a fifth of one."""
    return xxhash.xxh3_64_hexdigest(data.data)


def tensor_bytes(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's bytes as a flat uint8 array (bfloat16 has no NumPy type)."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def pack(name: str, tensor: torch.Tensor) -> PackedTensor:
    """A tensor ready to be sent; one that is contiguous in host memory is not copied."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return PackedTensor(name=name, dtype=dtype, shape=tuple(tensor.shape), data=tensor_bytes(tensor))


def fill_buckets(named: Iterable[tuple[str, torch.Tensor]], *, bucket_bytes: int = BUCKET_BYTES) -> Iterator[Bucket]:
    """Pack named tensors into buckets, in order; a tensor larger than a bucket gets one of its own."""
    bucket: list[PackedTensor] = []
    filled = 0
    for name, tensor in named:
        packed = pack(name, tensor)
        if bucket and filled + packed.data.size > bucket_bytes:
            yield tuple(bucket)
            bucket, filled = [], 0
        bucket.append(packed)
        filled += packed.data.size
    if bucket:
        yield tuple(bucket)
