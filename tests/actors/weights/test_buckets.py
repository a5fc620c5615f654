"""Weights in buckets: every tensor comes out unchanged and in order, and a flipped bit is noticed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.weights.buckets import digest_of, fill_buckets, pack, tensor_bytes, tensor_digests
from actors.weights.manifest import Manifest

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)


def tensors_of(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype]) -> list[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        (f"layer.{i}", (torch.randn(shape) * 100).to(dtype))
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    ]


@given(st.lists(SHAPES, min_size=1, max_size=8), st.lists(st.sampled_from(DTYPES), min_size=8, max_size=8), st.data())
@settings(max_examples=80, deadline=None)
def test_buckets_bring_every_tensor_back(
    shapes: list[tuple[int, ...]], dtypes: list[torch.dtype], data: st.DataObject
) -> None:
    """Bit for bit, in order, by name, for any bucket size; no bucket is empty or larger than it must be."""
    named = tensors_of(shapes, dtypes)
    bucket_bytes = data.draw(st.integers(1, 600))
    buckets = list(fill_buckets(named, bucket_bytes=bucket_bytes))
    back = [(packed.name, packed.tensor()) for bucket in buckets for packed in bucket]
    assert [name for name, _ in back] == [name for name, _ in named]
    for (_, ours), (_, theirs) in zip(back, named, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert np.array_equal(tensor_bytes(ours), tensor_bytes(theirs))
    for bucket in buckets:
        assert sum(packed.data.size for packed in bucket) <= bucket_bytes or len(bucket) == 1


def test_a_tensor_larger_than_a_bucket_gets_one_of_its_own() -> None:
    named = [("a", torch.zeros(2)), ("huge", torch.zeros(100)), ("b", torch.zeros(2)), ("c", torch.zeros(2))]
    buckets = list(fill_buckets(named, bucket_bytes=16))
    assert [[packed.name for packed in bucket] for bucket in buckets] == [["a"], ["huge"], ["b", "c"]]


def test_nothing_gives_no_bucket() -> None:
    assert list(fill_buckets([])) == []


def test_bytes_are_those_of_the_values() -> None:
    """Also for a tensor that is transposed in memory, and for one with a gradient."""
    crosswise = torch.arange(6.0).reshape(2, 3).T
    assert tensor_bytes(crosswise).tobytes() == np.array([0, 3, 1, 4, 2, 5], dtype=np.float32).tobytes()
    assert tensor_bytes(torch.ones(1, requires_grad=True)).size == 4
    assert tensor_bytes(torch.tensor(1.0)).size == 4


@given(st.integers(0, 39), st.integers(0, 7))
@settings(max_examples=80, deadline=None)
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    packed = pack("a", torch.arange(10.0))
    data = packed.data.copy()
    data[at] ^= 1 << bit
    assert tensor_digests((replace(packed, data=data),)) != tensor_digests((packed,)) == (digest_of(packed.data),)


def test_nothing_is_copied_on_either_side() -> None:
    """Packed tensors are views of the weights' memory, and read-only bytes that arrive are read in place."""
    weights = torch.ones(3)
    packed = pack("a", weights)
    packed.data.setflags(write=False)
    assert packed.tensor().data_ptr() == weights.data_ptr()


def test_a_versions_digest_depends_on_its_tensors_and_their_order() -> None:
    def digest(*digests: str, version: int = 1) -> str:
        return Manifest(version=version, digests=(digests,), vision_digest="", num_bytes=0).digest

    assert digest("aa", "bb") == digest("aa", "bb", version=2)
    assert len({digest("aa", "bb"), digest("bb", "aa"), digest("aa"), digest()}) == 4


@pytest.mark.parametrize("change", ["one value", "order"])
def test_other_weights_have_another_digest(change: str) -> None:
    named = tensors_of([(4, 4), (3,)], [torch.bfloat16, torch.float32])
    first = [tensor_digests(bucket) for bucket in fill_buckets(named)]
    if change == "order":
        named = named[::-1]
    else:
        named[0][1][2, 2] += 1
    assert [tensor_digests(bucket) for bucket in fill_buckets(named)] != first
