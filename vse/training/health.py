"""Detecting failed training: NaN losses and collapse."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch

from data.errors import UserError
from vse.recipes import OptimConfig

# A healthy run passes through the collapsed value, or starts at it (InfoNCE with random towers: for
# up to about 100 steps); a collapsed run stays there.
COLLAPSE_BAND = 0.02
COLLAPSE_STEPS = 200
# fp16's scale starts at 65,536 and is halved at each infinite gradient.
SMALLEST_SCALE = 2.0**-10


def check_finite(
    losses: Mapping[str, float], grad_norm: float, *, step: int, scale: float | None = None
) -> None:
    """Stop at a loss or gradient that is not finite.

    Args:
        losses: means since the last check; "loss" and its parts.
        scale: fp16's loss scale. Isolated infinite gradients are normal in fp16: the scaler skips
            those steps and halves the scale. They are an error once the scale is tiny.

    Raises:
        UserError: names the first part that is not finite and what to do.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise UserError(explain_nan(f"the loss part {bad[-1]!r}", step=step))
    if scale is None and not math.isfinite(grad_norm):
        raise UserError(explain_nan("the gradient norm", step=step))
    if scale is not None and scale < SMALLEST_SCALE:
        raise UserError(explain_nan("the gradient norm, in every recent step,", step=step))


def explain_nan(what: str, *, step: int) -> str:
    """One line: what is not finite any more, and what to do."""
    return (
        f"{what} became NaN or infinite shortly before step {step}; the last saved state is kept. "
        "Try a lower learning rate (--set optim.lr=..., optim.backbone_lr=...), more warm-up "
        "(optim.warmup_steps), or another precision (optim.precision=bf16 or fp32); other settings "
        "need another --out"
    )


@contextlib.contextmanager
def explain_memory(optim: OptimConfig) -> Iterator[None]:
    """Turn "out of memory", of a GPU or of the machine, into a UserError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _says_memory(error):
            raise
        raise UserError(_advise_memory(optim)) from error


def _says_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator, cuDNN and cuBLAS have no separate exception class for it.
    known = ("DefaultCPUAllocator: can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return any(words in str(error) for words in known)


def _advise_memory(optim: OptimConfig) -> str:
    chunk = 16 if optim.chunk is None else max(1, optim.chunk // 2)
    half = "" if optim.precision != "fp32" else "half precision (--set optim.precision=bf16), "
    return (
        f"out of memory at a global batch of {optim.batch_size}: embed it in chunks, which keeps "
        f"the gradient of the whole batch (--set optim.chunk={chunk}), or use {half}a smaller "
        "input (--set image.px=...), more GPUs (--gpus N), or a smaller --batch-size"
    )


class CollapseWatch:
    """Counts for how many steps the loss has been at its collapsed value."""

    def __init__(self, *, patience: int = COLLAPSE_STEPS) -> None:
        self.patience = patience
        self.steps = 0  # number of steps at the collapsed value

    def update(self, align: float, collapsed: float, *, steps: int) -> bool:
        """Add means over the last `steps` steps; True once, when the patience is exhausted."""
        inside = collapsed > 0 and abs(align / collapsed - 1) <= COLLAPSE_BAND
        before = self.steps
        self.steps = before + steps if inside else 0
        return before < self.patience <= self.steps


def explain_collapse(*, step: int, value: float, align: str, margin: float) -> str:
    """One line: what happened, how it was detected, and what to do.

    Args:
        align: hinge or infonce.
    """
    free = (
        "other settings need another --out, but --set loss.on_collapse=warn continues in this one"
    )
    if align == "infonce":
        return (
            f"the contrastive loss has collapsed: for {COLLAPSE_STEPS} steps up to {step} it "
            f"stayed at {value:.4g}, the logarithm of the number of candidates, which is its value "
            "when all embeddings are alike. Start from pretrained towers, lower the learning rate "
            "(--set optim.lr=..., optim.backbone_lr=...) or lengthen its warm-up "
            f"(optim.warmup_steps); {free}"
        )
    return (
        f"the hinge has collapsed: for {COLLAPSE_STEPS} steps up to {step} it stayed at "
        f"{value:.4g}, which is its value when all embeddings are alike (2 * batch * margin "
        f"{margin} for the hardest negatives). Start from pretrained towers, give the sum over all "
        "negatives more time (--set loss.sum_epochs=...), lower the learning rate, or use --set "
        f"loss.align=infonce; {free}"
    )
