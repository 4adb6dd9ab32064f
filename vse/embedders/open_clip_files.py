"""Where the weights of a model of open_clip lie: a safetensors file, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip

from data.errors import UserError
from vse.model.backbones.open_clip import settle_name

CONFIG = "open_clip_config.json"
SAFE = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
SUFFIX = ".safetensors"
_NO_PICKLE = "reading a pickle can run code, so it is not read"


@dataclass(frozen=True)
class Release:
    """`source`: an architecture's name or `local-dir:FOLDER`. `tag`: what open_clip knows of it."""

    source: str
    weights: Path
    tag: Mapping[str, Any] = field(default_factory=dict)


def find_release(name: str) -> Release:
    """Find the weights of open_clip:NAME, from the Hub if need be.

    Raises:
        UserError: no such model, nothing but pickles, or weights that cannot be had.
    """
    source, weights = settle_name(name, pretrained=True, else_random=False)
    if source.startswith("hf-hub:"):
        repo = source.removeprefix("hf-hub:")
        config = _fetch(repo, CONFIG, name)
        _check_config(config)
        return Release(f"local-dir:{config.parent}", _fetch(repo, SAFE[0], name))
    if source.startswith("local-dir:"):
        return Release(source, _find_in(Path(source.removeprefix("local-dir:")), name))
    assert weights is not None
    tag = open_clip.get_pretrained_cfg(source, weights)
    if not tag:
        return Release(source, _check_suffix(Path(weights)))
    repo, file = os.path.split(tag.get("hf_hub", ""))
    if not repo:
        raise UserError(f"the weights of {name} are published as a pickle alone: {_NO_PICKLE}")
    return Release(source, _fetch(repo, _name_safe(file), name), tag)


def _name_safe(file: str) -> str:
    """As open_clip looks for them: beside `pytorch_model.bin` lies `pytorch_model.safetensors`."""
    return str(Path(file).with_suffix(SUFFIX)) if file else SAFE[0]


def _find_in(folder: Path, name: str) -> Path:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no folder of open_clip: it has no {CONFIG}")
    _check_config(folder / CONFIG)
    found = [folder / file for file in SAFE if (folder / file).is_file()]
    found = found or sorted(folder.glob(f"*{SUFFIX}"))
    if not found:
        raise UserError(
            f"{name} holds no weights in safetensors ({SAFE[0]}): {_NO_PICKLE}; ask for safetensors"
        )
    return found[0]


def _check_config(path: Path) -> None:
    try:
        towers = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        known = isinstance(towers["vision_cfg"], dict) and isinstance(towers["text_cfg"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError(f"{path} does not describe a model: no model_cfg with both towers")


def _check_suffix(file: Path) -> Path:
    if file.suffix != SUFFIX:
        raise UserError(f"{file} is not a file of safetensors: {_NO_PICKLE}; ask for safetensors")
    return file


def _fetch(repo: str, file: str, name: str) -> Path:
    # Not at the top: whoever measures a local model needs none of it.
    import httpx2
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo, file))
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(
            f"{repo} holds no {file}: {_NO_PICKLE}; ask its owner for safetensors"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is open to those alone who were let in: ask on its page, then set HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx2.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} of {name} is neither in the Hugging Face cache nor to be had ({reason}); "
            f"run `hf download {repo}` where there is a network (HF_HOME says where the cache "
            "lies), or name a local folder (open_clip:FOLDER)"
        ) from error
