"""Hugging Face backbones by hub id, local folder or configuration, without their poolers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from data.errors import UserError


def make_backbone(*, name: str | None, config: dict[str, Any] | None, **changes: Any) -> nn.Module:
    """Load the pretrained backbone `name`, or build one with random weights from `config`.

    Args:
        config: keyword arguments of the transformers configuration, with its `model_type`.
        changes: settings laid over `config`, such as a vocabulary size.

    Raises:
        UserError: weights that cannot be had, or a configuration that transformers refuses.
    """
    if config is not None:
        return build_backbone({**config, **changes})
    assert name is not None
    verbosity = logging.get_verbosity()
    # Poolers and classifiers of the checkpoint are left out on purpose: no need to report each.
    logging.set_verbosity_error()
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(
            name, add_pooling_layer=False, attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        raise UserError(_missing(name, error)) from error
    finally:
        logging.set_verbosity(verbosity)
    return model


def build_backbone(config: dict[str, Any]) -> nn.Module:
    """Build a backbone with random weights from a plain transformers configuration."""
    settings = {k: v for k, v in config.items() if k != "model_type"}
    try:
        made = AutoConfig.for_model(config["model_type"], **settings)
        model = AutoModel.from_config(made, add_pooling_layer=False, attn_implementation="sdpa")
    except (KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot build a backbone from {config}: {reason}") from error
    return model


def describe_backbone(model: nn.Module) -> dict[str, Any]:
    """The plain configuration from which `build_backbone` makes the same architecture."""
    config: dict[str, Any] = model.config.to_diff_dict()  # type: ignore[union-attr, operator]
    for key in ("transformers_version", "architectures", "dtype", "_name_or_path"):
        config.pop(key, None)
    config["model_type"] = model.config.model_type  # type: ignore[union-attr]
    return config


def _missing(name: str, error: Exception) -> str:
    if Path(name).exists():
        return f"cannot load a backbone from {name}: {' '.join(str(error).split())[:300]}"
    return (
        f"the weights of {name} are neither in the Hugging Face cache nor to be had from the hub; "
        f"run `hf download {name}` where there is a network (HF_HOME says where the cache lies), "
        "or give a local folder with --set image.name=FOLDER or --set text.name=FOLDER"
    )
