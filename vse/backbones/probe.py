"""One pass through a backbone without computing anything: what comes out, which weights it uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import UserError
from vse.backbones.base import ImageBackbone, TextBackbone


@dataclass(frozen=True)
class Probe:
    """Shape of the output, and the names of the weights that it does not depend on."""

    shape: tuple[int, ...]
    unreached: tuple[str, ...]


def probe_image(backbone: ImageBackbone, px: int) -> Probe:
    """What an image of px x px becomes; shape (1, N, W).

    Raises:
        UserError: the backbone does not take images of that size.
    """
    try:
        return probe(backbone, torch.zeros(1, 3, px, px))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the image backbone does not take {px} x {px} pixels ({reason}): "
            "another size with --set image.px=..."
        ) from error


def probe_text(backbone: TextBackbone) -> Probe:
    """What a text of four tokens becomes; shape (1, 4, W)."""
    return probe(backbone, torch.zeros(1, 4, dtype=torch.long), None)


def probe(model: nn.Module, *inputs: Tensor | None) -> Probe:
    """Run the model in evaluation mode; on the meta device where it lets itself be run there."""
    mode = model.training
    model.eval()
    try:
        return _run(model, inputs, torch.device("meta"))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
        # Some models read values on the way, which meta tensors have none of.
        return _run(model, inputs, next(model.parameters()).device)
    finally:
        model.train(mode)


def _run(model: nn.Module, inputs: tuple[Tensor | None, ...], device: torch.device) -> Probe:
    weights = {
        name: p.detach().to(device).requires_grad_(p.is_floating_point())
        for name, p in model.named_parameters()
    }
    buffers = {name: b.to(device) for name, b in model.named_buffers()}
    given = tuple(None if x is None else x.to(device) for x in inputs)
    found = functional_call(model, {**weights, **buffers}, given)
    trained = {name: w for name, w in weights.items() if w.requires_grad}
    gradients = torch.autograd.grad(found.sum(), list(trained.values()), allow_unused=True)
    idle = [name for name, grad in zip(trained, gradients, strict=True) if grad is None]
    return Probe(tuple(found.shape), tuple(idle))
