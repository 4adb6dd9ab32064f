"""Low-rank adapters for backbones (LoRA, Hu et al., ICLR 2022), with the package peft."""

from __future__ import annotations

import importlib.util

from torch import nn

from data.errors import UserError


def add_adapters(backbone: nn.Module, rank: int, *, inside: set[str]) -> None:
    """W x becomes W x + B A x in every linear layer and attention among the modules `inside`.

    A (rank, in) is random, B (out, rank) is zero; only they are trained.

    Raises:
        UserError: peft is not installed, or there is nothing to adapt.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("LoRA needs the package peft: pip install 'd2s-vse[lora]'")
    from peft import LoraConfig, inject_adapter_in_model

    modules = {name: part for name, part in backbone.named_modules() if name in inside}
    # PyTorch's attention contains its projections, which are adapted together.
    whole = {name for name, part in modules.items() if isinstance(part, nn.MultiheadAttention)}
    single = {name for name, part in modules.items() if isinstance(part, nn.Linear)}
    names = whole | {name for name in single if name.rpartition(".")[0] not in whole}
    if not names:
        raise UserError("this backbone has no linear layers for LoRA: omit its setting lora")
    backbone.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(names))
    inject_adapter_in_model(config, backbone)
