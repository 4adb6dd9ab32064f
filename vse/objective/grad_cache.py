"""A batch in chunks that need the memory of one chunk and give the gradient of the whole batch.

Adding up the gradients of several small batches would change the loss: each would see its own
negatives alone. So every chunk is embedded without keeping what its gradient needs, the loss is
that of all embeddings, and on the way back each chunk is embedded once more, with the random state
it had (GradCache: Gao et al., RepL4NLP 2021; here by PyTorch's activation checkpointing). It costs
one more forward pass. BatchNorm alone sees the chunk and not the batch: its statistics in training
are those of a batch of the chunk's size, as with plain accumulation.
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

    With `dense` a third, (B, D): the text tower's of the dense texts, to which r is not added.
    """
    if size is None or size >= len(batch.pixels):
        return _embed(model, batch, dense)
    parts = [
        checkpoint(
            _embed,
            model,
            chunk,
            dense,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), pause_statistics(model)),
        )
        for chunk in batch.split(size)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _embed(model: D2SModel, batch: Batch, dense: bool) -> tuple[Tensor, ...]:
    pixels = model.image.normalise(batch.pixels)
    embedded: tuple[Tensor, Tensor] = model(pixels, batch.text, drop=batch.drop)
    if not dense:
        return embedded
    assert batch.dense is not None
    return (*embedded, model.text(batch.dense)[0].float())
