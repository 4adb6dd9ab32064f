"""Low-rank adapters for backbones (LoRA, Hu et al., ICLR 2022), with the package peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection

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


def check_adapters(backbone: nn.Module, idle: Collection[str], *, part: str) -> None:
    """Refuse adapters that do not affect the tokens although the adapted layer does.

    Some attentions (timm's BEiT, EVA, SwinV2) read a layer's weights and never call the layer.

    Args:
        idle: names of the weights that do not affect the tokens.
        part: image or text, for the message.

    Raises:
        UserError: there are such adapters.
    """
    unheard = {name.partition(".lora_")[0] for name in idle if ".lora_" in name}
    used = {
        name.partition(".base_layer.")[0]
        for name, _ in backbone.named_parameters()
        if ".base_layer." in name and name not in idle
    }
    if dead := sorted(unheard & used):
        more = f" and {len(dead) - 1} more layers" if len(dead) > 1 else ""
        raise UserError(
            f"LoRA would have no effect on {dead[0]}{more}, whose weights this backbone uses "
            f"without calling the layer: omit {part}.lora ({part}.freeze=N freezes the first N "
            "blocks instead)"
        )
