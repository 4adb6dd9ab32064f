"""An open_clip model as released: both towers, its preprocessing and its tokenizer.

Weights are loaded from safetensors, never from a pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from safetensors import safe_open
from torch import Tensor, nn

from data.errors import UserError, one_line
from data.files.hashes import hash_file
from data.images import ImageError, decode_image, read_file
from vse.evaluation.split import Report
from vse.model.backbones.open_clip import parse_name, silence
from vse.model.encoding import find_device
from vse.model.tokenizer.open_clip import open_tokenizer
from vse.runs.models import hash_model

BATCH_SIZE = 64
CONFIG = "open_clip_config.json"
SAFE = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
SUFFIX = ".safetensors"
_NO_PICKLE = "reading a pickle can run code, so it is not read"


class OpenClipEncoder:
    """Encodes with open_clip's own `encode_image` and `encode_text`.

    EXIF orientation is applied and transparency becomes white, as for d2s models; then the model's
    own preprocessing is used. Its own tokenizer pads texts to its context length.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        weights_sha256: str,
        fingerprint: str,
    ) -> None:
        self.name = name
        self.model = model
        self.model.eval()
        self.tokenizer = tokenizer
        self.preprocessing = PreprocessCfg(**self.model.visual.preprocess_cfg)
        self.px = _square(self.preprocessing.size, name)
        self._transform = image_transform_v2(self.preprocessing, is_train=False)
        self._weights_sha256 = weights_sha256
        self._fingerprint = fingerprint
        self._device = next(model.parameters()).device

    def embed_files(
        self, paths: Sequence[Path], *, report: Report
    ) -> tuple[np.ndarray, Mapping[int, str]]:
        broken: dict[int, str] = {}

        def encode(block: range) -> Tensor:
            pixels = torch.stack([self._read(paths[i], i, broken) for i in block])
            found: Tensor = self.model.encode_image(pixels.to(self._device), normalize=True)
            return found

        return self._embed(encode, len(paths), report), broken

    def embed_captions(self, captions: Sequence[str], *, report: Report) -> np.ndarray:
        def encode(block: range) -> Tensor:
            ids = self.tokenizer([captions[i] for i in block])
            found: Tensor = self.model.encode_text(ids.to(self._device), normalize=True)
            return found

        return self._embed(encode, len(captions), report)

    def describe(self) -> dict[str, Any]:
        given = self.preprocessing
        return {
            "stage": None,
            "picked_on": None,
            "px": self.px,
            "resize": f"{given.resize_mode}, {given.interpolation}",
            "max_tokens": int(self.tokenizer.context_length),  # type: ignore[attr-defined]
            "weights_sha256": self._weights_sha256,
            "fingerprint": self._fingerprint,
            "finished": None,
            "step": None,
            "best_step": None,
        }

    def _read(self, path: Path, index: int, broken: dict[int, str]) -> Tensor:
        try:
            image = decode_image(read_file(path))
        except ImageError as error:
            broken[index] = str(error)
            return torch.zeros(3, self.px, self.px)
        found: Tensor = self._transform(image)
        return found

    @torch.no_grad()
    def _embed(self, encode: Callable[[range], Tensor], total: int, report: Report) -> np.ndarray:
        rows = []
        report(0, total)
        try:
            for start in range(0, total, BATCH_SIZE):
                block = range(start, min(start + BATCH_SIZE, total))
                rows.append(encode(block).float().cpu())
                report(block.stop, total)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the memory of {self._device} is too small for {BATCH_SIZE} images or texts at a "
                f"time with {self.name}: use a machine with more memory"
            ) from error
        return torch.cat(rows).numpy()


def load_open_clip_encoder(name: str) -> OpenClipEncoder:
    """Load the model `name` from safetensors, onto a GPU if there is one.

    Args:
        name: as in docs/towers.md, such as open_clip:ARCH/WEIGHTS or open_clip:FOLDER.

    Raises:
        UserError: no such model or weights, pickled weights, or incompatible files.
    """
    release = find_release(name)
    tokenizer = open_tokenizer(name)
    try:
        with silence():
            model = _build(release)
            _check_positions(model, release.weights, name)
            open_clip.load_checkpoint(model, str(release.weights))
    except UserError:
        raise
    except Exception as error:  # open_clip can raise anything: files, settings, sizes
        reason = one_line(error)
        raise UserError(f"{name} cannot be built from {release.weights}: {reason}") from error
    weights = hash_file(release.weights)
    return OpenClipEncoder(
        model.to(find_device()),
        tokenizer,
        name=name,
        weights_sha256=weights,
        fingerprint=hash_model(weights, release.settings),
    )


def _build(release: Release) -> nn.Module:
    """Build the architecture with random weights. open_clip's own loading would accept a pickle."""
    wanted = {key: value for key, value in release.tag.items() if key != "size"}
    settings = {"quick_gelu": bool(release.tag.get("quick_gelu", False))} if release.tag else {}
    model: nn.Module = open_clip.create_model(
        release.source,
        load_weights=False,
        pretrained_text=False,
        force_preprocess_cfg=merge_preprocess_dict({}, wanted),
        **settings,
    )
    return model


def _check_positions(model: Any, weights: Path, name: str) -> None:
    """Refuse text positions that open_clip would resize to the architecture's without a message."""
    own = getattr(model, "positional_embedding", None)
    own = getattr(model.text, "positional_embedding", None) if own is None else own
    with safe_open(str(weights), "pt") as file:
        for key in {"positional_embedding", "text.positional_embedding"} & set(file.keys()):
            count = file.get_slice(key).get_shape()[0]
            if own is not None and count != len(own):
                raise UserError(
                    f"{weights} has {count} text positions, but {name} has {len(own)}: use a "
                    f"folder whose {CONFIG} has that context_length"
                )


def _square(size: int | Sequence[int], name: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UserError(f"{name} reads images of {size} pixels: only square inputs are supported")
    return int(sides.pop())


@dataclass(frozen=True)
class Release:
    """`source`: an architecture's name or `local-dir:FOLDER`. `tag`: open_clip's entry."""

    source: str
    weights: Path
    tag: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> list[Path]:
        """The JSON files of its folder; an architecture of open_clip has none."""
        _, _, folder = self.source.partition("local-dir:")
        return list(Path(folder).glob("*.json")) if folder else []


def find_release(name: str) -> Release:
    """Find the weights of open_clip:NAME, from the Hub if necessary.

    Raises:
        UserError: no such model, only pickles, or unavailable weights.
    """
    source, weights = parse_name(name, pretrained=True, else_random=False)
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
        raise UserError(f"the weights of {name} are published only as a pickle: {_NO_PICKLE}")
    return Release(source, _fetch(repo, _name_safe(file), name), tag)


def _name_safe(file: str) -> str:
    """As in open_clip: the safetensors file has the name of the .bin file."""
    return str(Path(file).with_suffix(SUFFIX)) if file else SAFE[0]


def _find_in(folder: Path, name: str) -> Path:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not an open_clip folder: it has no {CONFIG}")
    _check_config(folder / CONFIG)
    found = [folder / file for file in SAFE if (folder / file).is_file()]
    found = found or sorted(folder.glob(f"*{SUFFIX}"))
    if not found:
        raise UserError(
            f"{name} has no safetensors weights ({SAFE[0]}): {_NO_PICKLE}; ask its authors for "
            "safetensors"
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
        raise UserError(
            f"{file} is not a safetensors file: {_NO_PICKLE}; ask its authors for safetensors"
        )
    return file


def _fetch(repo: str, file: str, name: str) -> Path:
    # Not at the top: local models do not need it.
    import httpx2
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo, file))
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(
            f"{repo} has no {file}: {_NO_PICKLE}; ask its owner for safetensors"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: request access on its page, then set HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx2.HTTPError, OSError) as error:
        reason = one_line(error)
        raise UserError(
            f"{file} of {name} is neither in the Hugging Face cache nor available ({reason}); run "
            f"`hf download {repo}` where there is a network (HF_HOME sets the location of the "
            "cache), or use a local folder (open_clip:FOLDER)"
        ) from error
