"""What a version of the weights consists of; no torch, for the processes that only pass it on."""

import hashlib
from dataclasses import dataclass


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
