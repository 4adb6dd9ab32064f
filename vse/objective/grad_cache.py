"""Processing a batch in chunks, with the memory of one chunk and the gradient of the whole batch.

Adding up the gradients of several small batches would change the loss: each would only see its own
negatives. So every chunk is embedded without keeping activations, the loss is computed from all
embeddings, and in the backward pass each chunk is embedded again with the same random state
(GradCache: Gao et al., RepL4NLP 2021; here with PyTorch's activation checkpointing). This costs one
more forward pass. Only BatchNorm sees the chunk instead of the batch: its training statistics are
those of a chunk, as with plain gradient accumulation.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vse.model.batch_norm import pause_statistics
from vse.model.d2s import D2SModel
from vse.samples.batches import Batch


def embed_in_chunks(
    model: D2SModel, batch: Batch, *, size: int | None, dense: bool = False
) -> tuple[Tensor, ...]:
    """Image and text embeddings of a batch, each (B, D), `size` pairs at a time; None = at once.

    With `dense`, also (B, D) for the dense texts, from the text tower without r.
    """
    if size is None or size >= len(batch.pixels):
        return _embed(batch.pixels, model, batch, dense)
    parts = [
        # The random state is saved for the devices of tensors among the arguments themselves.
        checkpoint(
            _embed,
            chunk.pixels,
            model,
            chunk,
            dense,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), pause_statistics(model)),
        )
        for chunk in batch.split(size)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _embed(pixels: Tensor, model: D2SModel, batch: Batch, dense: bool) -> tuple[Tensor, ...]:
    shown = model.image.normalise(pixels)
    embedded: tuple[Tensor, Tensor] = model(shown, batch.text, drop=batch.drop)
    if not dense:
        return embedded
    assert batch.dense is not None
    return (*embedded, model.text(batch.dense)[0].float())
