"""A pass through a backbone on the meta device: output shapes and used weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import UserError, one_line
from vse.model.backbones.base import Backbone, ImageBackbone

# Errors of models that cannot run on the meta device, or at this size.
FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError)


def count_tokens(backbone: ImageBackbone, px: int) -> int:
    """The number of tokens of a px x px image.

    Raises:
        UserError: the backbone does not accept images of this size.
    """
    try:
        return shape_of(backbone, torch.zeros(1, 3, px, px))[1]
    except FAILURES as error:
        raise UserError(
            f"the image backbone does not accept {px} x {px} pixels ({one_line(error)}): use "
            "another size with --set image.px=..."
        ) from error


def idle_weights(backbone: Backbone, *, px: int) -> tuple[str, ...]:
    """Names of weights that do not affect the tokens.

    Call it before `checkpoint_gradients`, which changes the graph.
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
    """The shape of the backbone's output."""

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
        # Some models read values during the forward pass, which meta tensors do not have.
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
