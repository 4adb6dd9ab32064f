"""The heads of CLIP and SigLIP: projections, and the scale and bias of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class ClipHead:
    """weight: (D, W) and bias: (D,) of the projection, None without one. `log_scale` and `shift`,
    each (1,): of the logits a s + b, with log_scale = ln a; CLIP has no shift.
    """

    weight: Tensor | None
    bias: Tensor | None
    log_scale: Tensor
    shift: Tensor | None


def read_head(model: Any, *, part: str) -> ClipHead:
    """The head of one tower, image or text, of an open_clip model.

    None for CoCa, and for image towers that pool by attention (SigLIP): their heads do not fit
    single tokens.
    """
    found: Any = None
    if part == "text" and getattr(model.text, "cls_emb", None) is None:
        found = getattr(model.text, "text_projection", None)
        found = getattr(model.text, "proj", None) if found is None else found
    elif part == "image" and getattr(model.visual, "attn_pool", None) is None:
        found = getattr(model.visual, "proj", None)
        head = getattr(model.visual, "head", None)
        attends = getattr(getattr(model.visual, "trunk", None), "attn_pool", None) is not None
        if found is None and isinstance(head, nn.Sequential) and not attends:
            found = getattr(head, "proj", None)
    weight, bias = None, None
    if isinstance(found, nn.Linear):
        weight, bias = found.weight.detach(), None if found.bias is None else found.bias.detach()
    elif isinstance(found, nn.Parameter):
        weight = found.detach().T
    shift = getattr(model, "logit_bias", None)
    shift = None if shift is None else shift.detach().reshape(1)
    return ClipHead(weight, bias, model.logit_scale.detach().reshape(1), shift)
