"""Weights that are moved to another device for a pass and are back after it."""

import pytest
import torch

from rex_rl.policy.reference import _moved


def test_weights_move_for_a_pass_and_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside they are copies (`to` stands in for a device); after it, error or not, they have the very same memory."""
    layer, device = torch.nn.Linear(2, 3).requires_grad_(False), torch.device("cpu")
    tensors = list(layer.parameters())
    homes, before = [tensor.data_ptr() for tensor in tensors], layer(torch.ones(2))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self.clone())
    with _moved(tensors, device):
        assert all(tensor.data_ptr() != home for tensor, home in zip(tensors, homes, strict=True))
        assert torch.equal(layer(torch.ones(2)), before)
    assert [tensor.data_ptr() for tensor in tensors] == homes
    with pytest.raises(MemoryError), _moved(tensors, device):
        raise MemoryError
    assert [tensor.data_ptr() for tensor in tensors] == homes
