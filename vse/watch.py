"""Telling a training that has gone wrong: losses that are no numbers, and collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping

from data.errors import UserError

# A healthy run passes the collapsed value, or sets out from it (InfoNCE from random towers: for up
# to some 100 steps); a collapsed one stays on it.
COLLAPSE_BAND = 0.02
COLLAPSE_STEPS = 200


def check_finite(losses: Mapping[str, float], grad_norm: float, *, step: int, scaled: bool) -> None:
    """Stop at a loss or gradient that is no number.

    Args:
        losses: means since the last check; "loss" and its parts.
        scaled: fp16, where single infinite gradients are normal: the scaler skips those steps.

    Raises:
        UserError: names the first part that is not finite and what to do.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad and (scaled or math.isfinite(grad_norm)):
        return
    what = f"the loss part {bad[-1]!r}" if bad else "the gradient norm"
    raise UserError(
        f"{what} became NaN or infinite shortly before step {step}; the state saved last is "
        "kept. Try a lower learning rate (--set optim.lr=..., "
        "optim.backbone_lr=...), more warm-up (optim.warmup_steps), or another precision "
        "(optim.precision=bf16 or fp32); other settings need another --out"
    )


class CollapseWatch:
    """Counts for how long the loss has stood at its value when all embeddings agree."""

    def __init__(self, *, patience: int = COLLAPSE_STEPS) -> None:
        self.patience = patience
        self._steps = 0

    def update(self, align: float, collapsed: float, *, steps: int) -> bool:
        """Feed means over the last `steps` steps; True once, when the patience is used up."""
        inside = collapsed > 0 and abs(align / collapsed - 1) <= COLLAPSE_BAND
        before = self._steps
        self._steps = before + steps if inside else 0
        return before < self.patience <= self._steps


def explain_collapse(*, step: int, value: float, align: str, margin: float) -> str:
    """One line: what happened, how one can tell, and what to do.

    Args:
        align: hinge or infonce.
    """
    free = "other settings need another --out, but --set loss.on_collapse=warn goes on in this one"
    if align == "infonce":
        return (
            f"the contrastive loss has collapsed: for {COLLAPSE_STEPS} steps up to {step} it stood "
            f"at {value:.4g}, the logarithm of the number of candidates, its value when all "
            "embeddings are alike. Start from pretrained towers, lower the learning rate (--set "
            f"optim.lr=..., optim.backbone_lr=...) or lengthen its warm-up (optim.warmup_steps); "
            f"{free}"
        )
    return (
        f"the hinge has collapsed: for {COLLAPSE_STEPS} steps up to {step} it stood at {value:.4g}"
        f", its value when all embeddings are alike (2 * batch * margin {margin} for the hardest "
        "negatives). Start from pretrained towers, give the sum over all negatives more time "
        "(--set loss.sum_epochs=...), lower the learning rate, or use --set loss.align=infonce; "
        f"{free}"
    )
