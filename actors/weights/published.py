"""The weights that workers are to serve, and how they reach a worker."""

from dataclasses import dataclass, field

from ray import ObjectRef
from ray.actor import ActorHandle

from actors.weights.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The newest weights, which every worker has to confirm before it serves."""

    manifest: Manifest
    bucket_refs: list[ObjectRef]

    def send(self, actor: ActorHandle, *, abort: bool) -> ObjectRef:
        """Send them to a worker; returns the reference of its confirmation."""
        return actor.update_weights.remote(self.manifest, self.bucket_refs, abort=abort)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderWeights:
    """Weights that workers read from their model folder: to evaluate a folder, without a learner."""

    manifest: Manifest = field(default_factory=lambda: Manifest(version=0, digests=(), vision_digest="", num_bytes=0))

    def send(self, actor: ActorHandle, *, abort: bool) -> ObjectRef:
        """Tell a worker to serve them; no weights are sent."""
        return actor.serve_folder.remote(self.manifest)


Weights = Published | FolderWeights
