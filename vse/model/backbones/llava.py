"""The vision tower of a LLaVA, read without its language model.

What a captioner sees with can be a retrieval model's image tower, as CLIP's can.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.utils import cached_file

from data.environment import SHIPPED_MODELS
from data.errors import UserError
from vse.model.backbones.base import ImageBackbone
from vse.model.backbones.huggingface import adopt, explain_missing

PREFIX = "llava:"
# Published checkpoints and transformers 5 name the tower differently.
_TOWER = re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def load_llava(name: str, *, pretrained: bool) -> ImageBackbone:
    """The vision tower of `name`: llava:NAME, NAME a shipped model, a hub id or a folder.

    Only files with weights of the tower are fetched. Images are normalized as for the LLaVA.

    Raises:
        UserError: unavailable files, or a model without a vision tower of LLaVA's kind.
    """
    given = name.removeprefix(PREFIX)
    source = str(SHIPPED_MODELS.get(given, given))
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        vision = getattr(config, "vision_config", None)
        if vision is None:
            raise UserError(f"{name} has no vision tower: specify a LLaVA, or omit {PREFIX}")
        # Random weights that are replaced must not take anything from the run's seed.
        with torch.random.fork_rng(devices=[], enabled=pretrained):
            model = AutoModel.from_config(vision, trust_remote_code=False, dtype=torch.float32)
        if pretrained:
            model.load_state_dict(_match(_read_tower(source), model.state_dict(), name))
        processor: Any = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # models, files and the network can raise anything
        raise UserError(explain_missing(source, error, setting=f"image.name={PREFIX}")) from error
    made = adopt(model, where=name)
    assert isinstance(made, ImageBackbone)
    made.mean, made.std = tuple(processor.image_mean), tuple(processor.image_std)
    return made


def _read_tower(source: str) -> dict[str, Tensor]:
    """The tower's weights by their names inside the tower."""
    index = _find(source, _INDEX)
    files = [_WEIGHTS]
    if index is not None:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({file for key, file in places.items() if _TOWER.match(key)})
    found: dict[str, Tensor] = {}
    for file in files:
        path = _find(source, file)
        if path is None:
            raise OSError(f"{source} has no {file}")
        with safe_open(path, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 (it is not a mapping)
                if match := _TOWER.match(key):
                    found[key[match.end() :]] = weights.get_tensor(key).float()
    return found


def _find(source: str, file: str) -> Path | None:
    found = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _match(found: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights under the model's own names.

    Raises:
        UserError: some are missing.
    """
    own = {key.removeprefix("vision_model."): key for key in wanted}
    missing = [key for key in own if key not in found and not key.endswith("position_ids")]
    if missing:
        raise UserError(
            f"{name} lacks weights of its vision tower, such as {missing[0]}: its layout differs "
            "from LLaVA's, so specify the tower itself by the name of its own model"
        )
    return {own[key]: value for key, value in found.items() if key in own}
