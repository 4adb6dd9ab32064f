"""What every backbone has to do, whichever library it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from vse.model.backbones import (
    Backbone,
    ImageBackbone,
    TextBackbone,
    build_backbone,
    describe_backbone,
)

EXACT = {"rtol": 0, "atol": 0}


def some_images(px: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(0))


def some_ids(pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Two texts of 7 and 4 tokens, ids of 5 to 49, and their mask."""
    ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return ids.masked_fill(~mask, pad_id), mask


def check_rebuilt(backbone: Backbone, *, px: int = 224) -> None:
    """Its description, through JSON, makes the same model; its weights fit there."""
    description = json.loads(json.dumps(describe_backbone(backbone)))
    again = build_backbone(description, px=px)
    assert type(again) is type(backbone) and again.width == backbone.width
    again.load_state_dict(backbone.state_dict())
    assert json.loads(json.dumps(describe_backbone(again))) == description
    inputs = (some_images(px),) if isinstance(backbone, ImageBackbone) else some_ids()
    torch.testing.assert_close(again.eval()(*inputs), backbone.eval()(*inputs), **EXACT)
    if isinstance(backbone, ImageBackbone):
        assert isinstance(again, ImageBackbone)
        assert (again.mean, again.std) == (backbone.mean, backbone.std)


def check_padding(backbone: TextBackbone, *, pad_id: int = 0) -> None:
    """Neither the padding, nor what stands under it, nor its length matters."""
    ids, mask = some_ids(pad_id)
    backbone.eval()
    found = backbone(ids, mask)
    assert found.shape == (2, 7, backbone.width)
    torch.testing.assert_close(found[1, :4], backbone(ids[1:, :4], None)[0], rtol=1e-4, atol=1e-5)
    garbage = ids.masked_fill(~mask, 11)
    torch.testing.assert_close(backbone(garbage, mask)[mask], found[mask], rtol=1e-4, atol=1e-5)


def check_checkpointing(make: Callable[[], Backbone], inputs: tuple[Tensor, ...]) -> None:
    """The gradients of a training step, dropout at work, are the same with and without."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = make().train()
        if checkpointing:
            backbone.checkpoint_gradients()
        torch.manual_seed(1)
        tokens = backbone(*inputs)
        (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum().backward()
        found.append({name: p.grad for name, p in backbone.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(found[1][name], gradient, **EXACT, msg=name)


def kept_for_backward(backbone: Backbone, inputs: tuple[Tensor, ...]) -> int:
    """Bytes that a training step keeps for its backward pass."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        backbone.train()(*inputs)
    return total
