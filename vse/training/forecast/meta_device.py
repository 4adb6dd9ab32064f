"""A training step on the meta device: shapes without data, so it takes no memory or time.

Counts the bytes that autograd keeps for the backward pass, and the FLOP of matrix products. A GPU
keeps less than plain PyTorch would: attention is fused, and autocast uses half precision. Both are
emulated here.
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
from vse.model.text_batch import TextBatch, pad_texts
from vse.objective.grad_cache import embed_in_chunks
from vse.samples.batches import Batch

META = torch.device("meta")
# As in CUDA's autocast: operations in half precision, and those in single.
HALF = {"linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "conv2d", "einsum"}
SINGLE = {"layer_norm", "softmax", "log_softmax", "cosine_similarity", "vector_norm"}


def make_batch(
    model: D2SModel, *, px: int, lengths: Sequence[int], dense: Sequence[int] = (), texts: int = 1
) -> Batch:
    """A batch of the given shape on the meta device; one length for each text.

    Args:
        dense: of the dense texts that a joint stage reads besides.
        texts: number of consecutive texts per image.
    """
    count = len(lengths) // texts
    pixels = torch.zeros(count, px, px, 3, dtype=torch.uint8, device=META)
    index = torch.arange(count, device=META)
    told = make_texts(dense) if dense else None
    return Batch(pixels, None, make_texts(lengths), index, None, dense=told)


def make_texts(lengths: Sequence[int]) -> TextBatch:
    """Texts of the given lengths on the meta device."""
    texts = [np.zeros(length, dtype=np.int64) for length in lengths]
    return pad_texts(texts, pad_id=0).to(META)


def embed(model: D2SModel, batch: Batch) -> tuple[Tensor, ...]:
    """The forward pass of a step. Captions go through the decoder, dense texts beside them not."""
    return embed_in_chunks(model, batch, size=None, dense=batch.dense is not None)


def count_kept_bytes(model: D2SModel, batch: Batch, *, half: bool) -> int:
    """Bytes that the forward pass of both towers and the decoder keeps for the backward pass.

    The model's weights are not counted, but their copies in half precision are.

    Args:
        half: under autocast.
    """
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            # Keep a reference, so that no other storage gets its address.
            kept[storage._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with _AsOnGpu(half=half), hooks:
        embed(model, batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def count_flops(act: Callable[[], Any]) -> int:
    """FLOP of the products (convolutions, linear layers, attention) in a call on meta tensors."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), _WithoutScan():
        act()
    return int(counter.get_total_flops())


class _WithoutScan(TorchFunctionMode):
    """Skips GPO's GRU, which scans hundreds of ranks one by one and needs little memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "gru":
            data, hidden = args[0], args[2]
            return data.new_empty(*data.shape[:-1], hidden.shape[0] * hidden.shape[-1]), hidden
        return func(*args, **(kwargs or {}))


class _AsOnGpu(_WithoutScan):
    """Emulates a GPU: attention keeps no score matrix; products are in half precision if `half`."""

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
    """The memory of flash attention: its inputs, its output, and one number per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, count, _ = query.shape
        # With the layout that the next projection reads, so that both share one copy.
        out = query.new_empty(batch, count, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]).float())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
