"""Copying from host to device without synchronization."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without blocking the host.

    CUDA copies from pageable memory only after all earlier work, even with `non_blocking`; small
    tensors that are created in a step therefore go through pinned memory.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
