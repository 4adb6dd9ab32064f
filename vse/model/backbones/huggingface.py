"""Backbones of transformers by hub id, local folder or configuration, without their poolers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging

from data.errors import UserError, one_line
from vse.model.backbones.base import Backbone, ImageBackbone, TextBackbone, grid_tokens
from vse.model.backbones.stretch import stretch_parameter

# Their first position is padding_idx + 1.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")


class _OwnNames(Backbone):
    """Registers the model's children instead of the model, so that weights keep their names.

    (Runs and converted checkpoints know a weight as backbone.embeddings..., without a prefix.)
    """

    _whole: nn.Module
    base_model_prefix = ""  # peft looks for it where there is a `config`

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.__dict__["_whole"] = model
        if "model" not in model._modules:  # as in DINOv3, whose weights are called model.layer...
            self.__dict__["model"] = model
        for kind in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[kind] = model.__dict__[kind]
        taken = sorted(set(self._modules) & set(dir(type(self))))
        if taken:
            raise UserError(
                f"a {type(model).__name__} of transformers cannot be used as a backbone: it has "
                f"parts called {', '.join(taken)}"
            )
        self.frozen = ()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._whole.training = self.training
        return self


class HuggingFaceImage(_OwnNames, ImageBackbone):
    """ViT, Swin and similar: last hidden state, position embeddings interpolated to any size.

    By default, normalized with ImageNet's mean and standard deviation, as in the paper.
    """

    def __init__(self, model: nn.Module, config: PretrainedConfig) -> None:
        super().__init__(model)
        self.config = config
        sizes = getattr(config, "hidden_sizes", None)
        self.width = int(sizes[-1] if sizes else config.hidden_size)
        known = inspect.signature(model.forward).parameters
        self._options = {k: True for k in ("interpolate_pos_encoding",) if k in known}

    def forward(self, pixels: Tensor) -> Tensor:
        states: Tensor = self._whole(pixel_values=pixels, **self._options).last_hidden_state
        return states if states.ndim == 3 else grid_tokens(states, channels_last=False)

    def describe(self) -> dict[str, Any]:
        return _describe(self.config)

    def checkpoint_gradients(self) -> None:
        _checkpoint(self._whole)


class HuggingFaceText(_OwnNames, TextBackbone):
    """BERT and similar: last hidden states."""

    def __init__(self, model: nn.Module, config: PretrainedConfig) -> None:
        super().__init__(model)
        self.config = config
        self.width = int(config.hidden_size)
        self.positions = getattr(config, "max_position_embeddings", None)
        if self.positions is not None and config.model_type in OFFSET_POSITIONS:
            self.positions -= int(config.pad_token_id) + 1

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and self.config.model_type == "bert":
            # transformers reads a flat mask back from the device to simplify it.
            mask = mask[:, None, None, :]
        elif mask is not None:
            mask = mask.long()
        states: Tensor = self._whole(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def stretch_positions(self, positions: int) -> None:
        embeddings: Any = getattr(self._whole, "embeddings", None)
        # For CLIP and SigLIP; BERT's has another name and enough positions for long texts.
        if not hasattr(embeddings, "position_embedding"):
            super().stretch_positions(positions)
        codes = embeddings.position_embedding
        codes.weight = stretch_parameter(codes.weight, positions)
        codes.num_embeddings = positions
        embeddings.position_ids = torch.arange(positions)[None]
        self.positions = self.config.max_position_embeddings = positions

    def describe(self) -> dict[str, Any]:
        return _describe(self.config)

    def checkpoint_gradients(self) -> None:
        _checkpoint(self._whole)


def load_huggingface(name: str, *, pretrained: bool, part: str) -> Backbone:
    """The backbone `name`, a hub id or folder; only with its configuration if not `pretrained`.

    Args:
        part: image or text, for the message about unavailable weights.

    Raises:
        UserError: unavailable weights, or a model that is not a tower.
    """
    verbosity = logging.get_verbosity()
    # Poolers and classifiers of the checkpoint are left out on purpose; do not report them.
    logging.set_verbosity_error()
    # Weights are trained in float32, also those of checkpoints that are stored in half precision.
    same: dict[str, Any] = {"trust_remote_code": False, "dtype": torch.float32}
    try:
        if pretrained:
            made = _without_pooler(lambda **k: AutoModel.from_pretrained(name, **same, **k))
        else:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            _check_single(config, where=name)
            made = _without_pooler(lambda **k: AutoModel.from_config(config, **same, **k))
    except UserError:
        raise
    except Exception as error:  # models, files and the network can raise anything
        raise UserError(explain_missing(name, error, setting=f"{part}.name=")) from error
    finally:
        logging.set_verbosity(verbosity)
    return adopt(made, where=name)


def build_huggingface(description: dict[str, Any]) -> Backbone:
    """A backbone with random weights from a plain transformers configuration."""
    settings = {k: v for k, v in description.items() if k != "model_type"}
    try:
        config = AutoConfig.for_model(description["model_type"], **settings)
        _check_single(config, where=f"a {config.model_type}")
        made = _without_pooler(
            lambda **k: AutoModel.from_config(config, trust_remote_code=False, **k)
        )
    except UserError:
        raise
    except Exception as error:  # models reject settings in many ways
        raise UserError(f"cannot build a backbone from {description}: {one_line(error)}") from error
    return adopt(made, where=f"a {description['model_type']}")


def adopt(model: Any, *, where: str, config: PretrainedConfig | None = None) -> Backbone:
    """Turn a transformers model, or the encoder of an encoder-decoder, into a backbone.

    Args:
        config: of the whole model, if `model` is only its encoder.

    Raises:
        UserError: a model of several towers, or of anything but images or texts.
    """
    if config is None:
        config = model.config
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
    _check_single(config, where=where)
    # Encoders without this name are those of texts.
    reads = getattr(model, "main_input_name", "input_ids")
    if reads == "pixel_values":
        return HuggingFaceImage(model, config)
    if reads == "input_ids":
        return HuggingFaceText(model, config)
    raise UserError(f"{where} reads {reads}, not images or texts: use another model")


def _check_single(config: PretrainedConfig, *, where: str) -> None:
    if not hasattr(config, "hidden_size") and not hasattr(config, "hidden_sizes"):
        raise UserError(
            f"{where} has more than one tower: specify a single one, or a CLIP by its open_clip "
            "name (open_clip:ARCH/WEIGHTS)"
        )


def _without_pooler(make: Callable[..., Any]) -> Any:
    """Not every model has the option; the poolers that remain are never run."""
    try:
        return make(add_pooling_layer=False)
    except TypeError as error:
        if "add_pooling_layer" not in str(error):
            raise
        return make()


def _describe(config: PretrainedConfig) -> dict[str, Any]:
    found: dict[str, Any] = config.to_diff_dict()
    for key in ("transformers_version", "architectures", "dtype", "_name_or_path"):
        found.pop(key, None)
    found["model_type"] = config.model_type
    return found


def _checkpoint(model: Any) -> None:
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(f"a {model.config.model_type} of transformers cannot checkpoint gradients")
    model.gradient_checkpointing_enable({"use_reentrant": False})


def explain_missing(name: str, error: Exception, *, setting: str) -> str:
    """Why `name` cannot be loaded; `setting` is completed by the name of a folder."""
    if Path(name).exists() or not isinstance(error, OSError):
        return f"cannot load a backbone from {name}: {one_line(error)}"
    return (
        f"the weights of {name} are neither in the Hugging Face cache nor available from the Hub; "
        f"run `hf download {name}` where there is a network (HF_HOME sets the location of the "
        f"cache), or specify a local folder with --set {setting}FOLDER"
    )
