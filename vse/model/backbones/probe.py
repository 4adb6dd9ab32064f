"""Passes that show what a backbone does: output shapes, used weights, broken promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from data.errors import UserError, one_line
from vse.model.backbones.base import Backbone, ImageBackbone, TextBackbone

# Errors of models that cannot run on the meta device, at this size, or with these inputs alone.
FAILURES = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, LookupError)


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
            "another size with --set image.px=..., or another backbone"
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


def check_repeatable(backbone: ImageBackbone, px: int) -> None:
    """Refuse an image backbone whose tokens differ from one pass to the next in evaluation mode.

    Raises:
        UserError: it draws random numbers.
    """
    with _RandomOps() as drawn:
        shape_of(backbone, torch.zeros(1, 3, px, px))
    if drawn.names:
        raise UserError(
            f"the image tower draws random numbers in evaluation too ({min(drawn.names)}), so an "
            "image would have another embedding each time: use another with --set image.name=..."
        )


class _RandomOps(TorchDispatchMode):
    """Collects the names of operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Fused attention has the tag for its dropout, which is off.
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func.name():
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def check_padding(backbone: TextBackbone, *, pad_id: int) -> None:
    """Refuse a text backbone in which padding changes the tokens of a text.

    Raises:
        UserError: it does, or it cannot read a text of four tokens.
    """
    device = next(backbone.parameters()).device
    if device.type == "meta":
        return  # an estimate of the memory, which has no values
    # Some models look for the padding themselves, so no token may have its id.
    text = [number for number in range(5, 10) if number != pad_id][:4]
    ids = torch.tensor([[*text, *[pad_id] * 4]], device=device)
    mask = torch.tensor([[True] * 4 + [False] * 4], device=device)
    mode = backbone.training
    backbone.eval()
    try:
        alone = backbone(ids[:, :4], mask[:, :4])
        padded = backbone(ids, mask)[:, :4]
    except FAILURES as error:
        raise UserError(f"the text tower cannot read a short text: {one_line(error)}") from error
    finally:
        backbone.train(mode)
    if (padded - alone).abs().max() > 1e-3 * alone.abs().max():
        raise UserError(
            "the text tower reads the padding after a text, so the embedding would depend on the "
            "other texts of the batch: use another with --set text.name=..."
        )


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
