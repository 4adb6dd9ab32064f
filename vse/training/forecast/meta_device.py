"""A training step on the meta device: shapes without numbers, so it costs no memory and no time.

What autograd keeps for the backward pass is counted in bytes, and the products in FLOP. A GPU keeps
less than plain PyTorch would: attention is fused, and under autocast most of it is in half
precision. Both are imitated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from vse.model.d2s import D2SModel
from vse.model.text_batch import pad_texts
from vse.samples.batches import Batch

META = torch.device("meta")
# As CUDA's autocast has it: these take half precision, those single.
HALF = {"linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "conv2d", "einsum"}
SINGLE = {"layer_norm", "softmax", "log_softmax", "cosine_similarity", "vector_norm"}


def make_batch(model: D2SModel, *, px: int, lengths: Sequence[int], texts: int = 1) -> Batch:
    """A batch of the given shape on the meta device; one length for each text.

    Args:
        texts: of each image, in a row.
    """
    text = pad_texts([np.zeros(length, dtype=np.int64) for length in lengths], pad_id=0)
    count = len(lengths) // texts
    pixels = torch.zeros(count, px, px, 3, dtype=torch.uint8, device=META)
    return Batch(pixels, None, text.to(META), torch.arange(count, device=META), None)


def count_kept_bytes(model: D2SModel, batch: Batch, *, half: bool) -> int:
    """Bytes that the forward pass of both towers and the decoder keeps for the backward pass.

    The model's weights are not counted, their copies in half precision are.

    Args:
        half: under autocast.
    """
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            # Held, so that no other storage gets its address.
            kept[storage._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with _AsOnGpu(half=half), hooks:
        model(model.image.normalise(batch.pixels), batch.text)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def count_flops(act: Callable[[], Any]) -> int:
    """FLOP of the products (convolutions, linear layers, attention) in a call on meta tensors."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), _WithoutScan():
        act()
    return int(counter.get_total_flops())


class _WithoutScan(TorchFunctionMode):
    """GPO's GRU scans hundreds of ranks one by one; nothing of it is large."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "gru":
            data, hidden = args[0], args[2]
            return data.new_empty(*data.shape[:-1], hidden.shape[0] * hidden.shape[-1]), hidden
        return func(*args, **(kwargs or {}))


class _AsOnGpu(_WithoutScan):
    """Attention keeps no matrix of scores; products are in half precision if `half`."""

    def __init__(self, *, half: bool) -> None:
        super().__init__()
        self.half = half

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])
        name = getattr(func, "__name__", "")
        if self.half and name in HALF | SINGLE:
            kind = torch.bfloat16 if name in HALF else torch.float32
            args, kwargs = tree_map(lambda value: _cast(value, kind), (args, kwargs))
        return super().__torch_function__(func, types, args, kwargs)


def _cast(value: Any, kind: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and value.device == META:
        return value.to(kind)
    return value


class _FusedAttention(torch.autograd.Function):
    """What flash attention keeps: its inputs, its output, one number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, count, _ = query.shape
        # Laid out as the projection behind it reads it, so that both keep one copy.
        out = query.new_empty(batch, count, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]).float())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
