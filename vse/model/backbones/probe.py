"""One pass through a backbone without computing anything: what comes out, which weights it uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import UserError, one_line
from vse.model.backbones.base import Backbone, ImageBackbone

# What models raise that do not let themselves be run on the meta device, or at that size.
FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError)


def count_tokens(backbone: ImageBackbone, px: int) -> int:
    """How many tokens an image of px x px becomes.

    Raises:
        UserError: the backbone does not take images of that size.
    """
    try:
        return shape_of(backbone, torch.zeros(1, 3, px, px))[1]
    except FAILURES as error:
        raise UserError(
            f"the image backbone does not accept {px} x {px} pixels ({one_line(error)}): use "
            "another size with --set image.px=..."
        ) from error


def idle_weights(backbone: Backbone, *, px: int) -> tuple[str, ...]:
    """Names of weights that the tokens do not depend on.

    Call it before `checkpoint_gradients`, which recomputes what is gone by then.
    """
    image = isinstance(backbone, ImageBackbone)
    shown = torch.zeros(1, 3, px, px) if image else torch.zeros(1, 4, dtype=torch.long)

    def run(device: torch.device) -> tuple[str, ...]:
        weights = _weights(backbone, device)
        found = functional_call(backbone, weights, _inputs(backbone, shown.to(device)))
        trained = {name: w for name, w in weights.items() if w.requires_grad}
        gradients = torch.autograd.grad(found.sum(), list(trained.values()), allow_unused=True)
        return tuple(n for n, grad in zip(trained, gradients, strict=True) if grad is None)

    return _on_meta_if_it_can(backbone, run)


def shape_of(backbone: ImageBackbone, pixels: Tensor) -> tuple[int, ...]:
    """The shape of what the backbone makes of pixels."""

    def run(device: torch.device) -> tuple[int, ...]:
        with torch.no_grad():
            found = functional_call(backbone, _weights(backbone, device), (pixels.to(device),))
        return tuple(found.shape)

    return _on_meta_if_it_can(backbone, run)


T = TypeVar("T")


def _on_meta_if_it_can(model: nn.Module, run: Callable[[torch.device], T]) -> T:
    mode = model.training
    model.eval()
    try:
        return run(torch.device("meta"))
    except FAILURES:
        # Some models read values on the way, which meta tensors have none of.
        return run(next(model.parameters()).device)
    finally:
        model.train(mode)


def _weights(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    weights = {
        name: p.detach().to(device).requires_grad_(p.is_floating_point())
        for name, p in model.named_parameters()
    }
    return {**weights, **{name: b.to(device) for name, b in model.named_buffers()}}


def _inputs(backbone: Backbone, shown: Tensor) -> tuple[Tensor | None, ...]:
    return (shown,) if isinstance(backbone, ImageBackbone) else (shown, None)
