"""From the host to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; the host does not stand still meanwhile.

    Out of pageable memory CUDA copies only when all that was begun before is done, whatever
    `non_blocking` says; so what is small and made in the step goes through pinned memory.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
