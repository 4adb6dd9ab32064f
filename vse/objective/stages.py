"""Stages: a model with its loss, which determines how the trainer interprets a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vse.model.collectives import gather
from vse.model.d2s import D2SModel
from vse.objective.alignment import align_nested
from vse.objective.distillation import distill, distill_image
from vse.objective.grad_cache import embed_in_chunks
from vse.objective.teacher import OnlineTeacher
from vse.recipes import LossConfig
from vse.samples.batches import Batch


class DenseStage(nn.Module):
    """Images with one text each, no decoder: stage 1 on dense text, the baseline on sparse."""

    def __init__(self, model: D2SModel, loss: LossConfig, *, chunk: int | None = None) -> None:
        """`chunk`: pairs embedded at a time, see `vse.objective.grad_cache`; None = all."""
        super().__init__()
        self.model = model
        self.config = loss
        self.chunk = chunk

    def forward(self, batch: Batch, *, epoch: float) -> dict[str, Tensor]:
        """-> {"loss", "align", ...}, each a scalar over the global batch."""
        v, t = embed_in_chunks(self.model, batch, size=self.chunk)
        v, t, index = map(gather, (v, t, batch.image_index))
        parts = align_nested(v, t, index, self.config, epoch=epoch, logits=self.model.logits)
        return {"loss": parts["align"], **parts}


class SparseStage(nn.Module):
    """Stage 2: aligns images with t^ = t + r, and distills the teacher's dense embedding to t^.

    L = L_align + distill_weight * L_distill, + distill_image_weight * L_image if enabled.

    The dense embeddings are part of the batch, unless a `teacher` computes them.
    """

    def __init__(
        self,
        model: D2SModel,
        loss: LossConfig,
        teacher: OnlineTeacher | None = None,
        *,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.teacher = teacher
        self.model = model
        self.config = loss

    def forward(self, batch: Batch, *, epoch: float) -> dict[str, Tensor]:
        """-> {"loss", "align", "distill", ...}, each a scalar over the global batch."""
        config = self.config
        v, t, dense = map(gather, self._embed(batch))
        index, texts, told = gather(batch.image_index), len(t) // len(v), self._positives(t, dense)
        parts = align_nested(v, told, index, config, epoch=epoch, logits=self.model.logits)
        parts["distill"] = distill(
            t,
            dense.repeat_interleave(texts, dim=0),
            kind=config.distill,
            reduction=config.distill_reduction,
        )
        if config.distill_reduction == "sum":
            parts["distill"] = parts["distill"] / texts  # like the alignment: a sum over images
        loss = parts["align"] + config.distill_weight * parts["distill"]
        if config.distill_image is not None:
            target = dense
            if config.distill_image == "image":
                assert batch.teacher_image is not None
                target = gather(batch.teacher_image)
            parts["distill_image"] = distill_image(v, target)
            loss = loss + config.distill_image_weight * parts["distill_image"]
        return {"loss": loss, **parts}

    def _embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """v (b, D), t^ (k b, D) and the dense embeddings (b, D) of this process's share."""
        dense = batch.teacher
        if self.teacher is not None:
            assert batch.dense is not None
            dense = self.teacher(batch.dense)
        assert dense is not None
        return (*embed_in_chunks(self.model, batch, size=self.chunk), dense)

    def _positives(self, t: Tensor, dense: Tensor) -> Tensor:
        """The texts with which images are aligned; those of an image are consecutive."""
        return t


class JointStage(SparseStage):
    """Both stages in one: images with t^ of a sparse text and t of the dense text, in each step.

    The dense embeddings come from the tower that is being trained; t^ is pulled toward them, but
    they get no gradient from this. Each text is a positive of its own.
    """

    def _embed(self, batch: Batch) -> tuple[Tensor, ...]:
        return embed_in_chunks(self.model, batch, size=self.chunk, dense=True)

    def _positives(self, t: Tensor, dense: Tensor) -> Tensor:
        blocks = t.view(len(dense), -1, t.shape[1])
        return torch.cat((blocks, dense[:, None]), dim=1).flatten(0, 1)
