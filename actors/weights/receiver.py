"""The receiving end of a weight update inside vLLM, over Ray's object store.

Registered with vLLM's weight-transfer API as the backend `object_store`. Named tensors arrive as bytes whose xxh3
digests actors/rollout/worker.py has checked, and are copied from the object store. It works with any device; between
GPUs vLLM's own `nccl` and `ipc` backends serve the same four phases (init / start / update / finish).
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.weights.buckets import Bucket

BACKEND = "object_store"


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Empty: buckets describe themselves."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    """One bucket of named tensors."""

    bucket: Bucket = ()


class ObjectStoreReceiver(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Loads buckets into vLLM's model in the checkpoint's own layout and names."""

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Give every parameter its checkpoint loader back; after loading, vLLM replaces them by packed copies."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket. (vLLM's own version synchronises an accelerator, and there may be none.)"""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        """Hand the bucket's tensors to the model's loader."""
        self.model.load_weights((packed.name, packed.tensor()) for packed in update_info.bucket)

    def finish_weight_update(self) -> None:
        """Repack what the loader replaced, the tied output matrix included.

        On CPU vLLM packs a separate copy for a tied `lm_head`, which a reload does not refresh. Without this,
        log-probabilities are off by 8 nats while every other layer is right (tests/actors/weights/test_sync.py).
        """
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing is held."""


def register() -> None:
    """Make the backend known to vLLM in this process; calling it again does nothing."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreReceiver)
