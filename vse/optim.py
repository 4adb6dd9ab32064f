"""AdamW's parameter groups, clipping, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vse.config import OptimConfig


def make_optimizer(stage: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over what is trained: `backbone_lr` for both backbones, `lr` for everything else."""
    backbones: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:
            (backbones if ".backbone." in name else heads).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": heads, "lr": config.lr, "base_lr": config.lr},
        {"params": backbones, "lr": config.backbone_lr, "base_lr": config.backbone_lr},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def clip_gradients(
    accelerator: Accelerator, parameters: list[nn.Parameter], *, config: OptimConfig
) -> Tensor:
    """Clip the norm of all gradients to `config.clip`; returns the norm before, unscaled.

    Accelerate unscales fp16 gradients first. With `clip_scaled` the limit is on gradients that are
    still multiplied by the loss scale S, as in the released code: what remains of them after
    unscaling is `clip / S` long at most.
    """
    scaler = accelerator.scaler
    if scaler is None or not config.clip_scaled:
        norm: Tensor = accelerator.clip_grad_norm_(parameters, config.clip)
        return norm
    return nn.utils.clip_grad_norm_(parameters, config.clip) / scaler.get_scale()


def lr_factor(step: int, *, config: OptimConfig, steps_per_epoch: int, total: int) -> float:
    """What the base learning rates are multiplied by at `step`, counted from 0.

    step: gamma for every milestone epoch begun. cosine: half a period down to 0 at `total`.
    All of them rise linearly over the first `warmup_steps`.
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
