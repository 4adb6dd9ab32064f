"""AdamW's parameter groups, clipping, and the learning rate as a pure function of the step."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from data.errors import UserError
from vse.model.backbones import Backbone
from vse.model.d2s import D2SModel
from vse.recipes import OptimConfig


def make_optimizer(stage: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable weights: `lr` for heads and decoder; `scale_lr`; `layer_rates`."""
    rates = layer_rates(stage, config)
    if config.scale_lr is not None:
        rates |= {n: config.scale_lr for n, _ in stage.named_parameters() if ".logits." in n}
    groups: dict[float | None, dict[str, Any]] = {}
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:
            rate = rates.get(name)
            base = config.lr if rate is None else rate
            group = groups.setdefault(rate, {"params": [], "lr": base, "base_lr": base})
            group["params"].append(parameter)
    # The heads first, then the backbones' groups from the fastest to the slowest.
    order = sorted(groups, key=lambda rate: -math.inf if rate is None else -rate)
    return torch.optim.AdamW(
        [groups[rate] for rate in order],
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def layer_rates(stage: nn.Module, config: OptimConfig) -> dict[str, float]:
    """The learning rate of every weight of a backbone, by name.

    backbone_lr * layer_decay^d, where d counts the blocks from the end: 0 for a norm after the last
    block, 1 for the last block, and the maximum for the embeddings (BEiT, Bao et al., ICLR 2022).

    Raises:
        UserError: layer_decay for a backbone whose blocks are not known.
    """
    rates: dict[str, float] = {}
    for prefix, module in stage.named_modules():
        if not isinstance(module, Backbone):
            continue
        blocks, depths = module.block_count(), module.weight_depths()
        if config.layer_decay < 1 and blocks == 0:
            raise UserError(
                f"optim.layer_decay is {config.layer_decay}, but the blocks of this backbone are "
                "not known: set it to 1"
            )
        for name, depth in depths.items():
            decay = config.layer_decay ** max(0, blocks + 1 - depth)
            rates[f"{prefix}.{name}"] = config.backbone_lr * decay
    return rates


def clip_gradients(
    accelerator: Accelerator, parameters: list[nn.Parameter], *, config: OptimConfig
) -> Tensor:
    """Clip the norm of all gradients to `config.clip`; returns the norm before, unscaled.

    Accelerate unscales fp16 gradients first. With `clip_scaled`, the limit applies to gradients
    that are still multiplied by the loss scale S, as in the released code: after unscaling, their
    norm is at most `clip / S`.
    """
    scaler = accelerator.scaler
    if scaler is None or not config.clip_scaled:
        norm: Tensor = accelerator.clip_grad_norm_(parameters, config.clip)
        return norm
    norm = nn.utils.clip_grad_norm_(parameters, config.clip)
    # Reading the scale as a number would synchronize with the device.
    return norm / scaler.scale(torch.ones_like(norm))


def lr_factor(step: int, *, config: OptimConfig, steps_per_epoch: int, total: int) -> float:
    """The factor of the base learning rates at `step`, counted from 0.

    step: gamma for every milestone epoch reached. cosine: half a period, down to 0 at `total`. All
    of them have linear warmup over the first `warmup_steps`.
    """
    factor = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "step":
        epoch = step // steps_per_epoch
        factor *= config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    elif config.schedule == "cosine":
        warm = config.warmup_steps
        done = min(1.0, max(0, step - warm) / max(1, total - warm))
        factor *= (1 + math.cos(math.pi * done)) / 2
    return factor


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Apply the factor to every group; returns the largest learning rate, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights after every step; buffers are copied.

    Over the first steps the decay is (1 + step) / (10 + step), so that the initial weights are soon
    forgotten.
    """

    def __init__(self, model: D2SModel, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: D2SModel, *, step: int) -> None:
        """Update with the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mean = get_ema_multi_avg_fn(decay)
        mean(list(self.model.parameters()), list(model.parameters()), step)
        for kept, now in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(now)
