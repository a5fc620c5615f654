"""What a version of the weights consists of; no torch, so that processes which only pass it on need none."""

import hashlib
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a version consists of: digests of its tensors, bucket by bucket, and one of the vision tower alone."""

    version: int
    digests: tuple[tuple[str, ...], ...]
    vision_digest: str
    num_bytes: int

    @property
    def digest(self) -> str:
        """One digest for the whole version."""
        return hashlib.sha256("".join(chain.from_iterable(self.digests)).encode()).hexdigest()[:16]
