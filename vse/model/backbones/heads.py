"""What a CLIP or SigLIP has behind its backbones: projections, and its loss's scale and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class ClipHead:
    """weight: (D, W) and bias: (D,) of the projection, None without one. `log_scale` and `shift`,
    each (1,): of the logits, a s + b with ln a; no shift for a CLIP.
    """

    weight: Tensor | None
    bias: Tensor | None
    log_scale: Tensor
    shift: Tensor | None


def read_head(model: Any, *, part: str) -> ClipHead:
    """That of one tower, image or text, of a whole model of open_clip.

    None of CoCa's, nor of an image tower that pools by attention, as SigLIP's, fits single tokens.
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
