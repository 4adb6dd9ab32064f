"""A model of open_clip as it was released: both towers, its preprocessing, its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from torch import Tensor, nn

from data.errors import UserError
from data.files.hashes import hash_file
from data.images import ImageError, decode_image, read_file
from vse.embedders.open_clip_files import Release, find_release
from vse.evaluation.peer import Report
from vse.model.backbones.open_clip import silence
from vse.model.encoding import find_device
from vse.model.tokenizer.open_clip import open_tokenizer

BATCH_SIZE = 64


class OpenClipPeer:
    """What open_clip itself computes: `encode_image` and `encode_text` of the whole model.

    Images are upright and lie on white, as for our own models, and then go through the model's
    own preprocessing; texts are padded to its context length by its own tokenizer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        weights_sha256: str,
    ) -> None:
        self.name = name
        self.model = model
        self.model.eval()
        self.tokenizer = tokenizer
        self.preprocessing = PreprocessCfg(**self.model.visual.preprocess_cfg)
        self.px = _square(self.preprocessing.size, name)
        self._transform = image_transform_v2(self.preprocessing, is_train=False)
        self._weights_sha256 = weights_sha256
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
            "finished": None,
            "step": None,
            "best_step": None,
        }

    def _read(self, path: Path, index: int, broken: dict[int, str]) -> Tensor:
        try:
            picture = decode_image(read_file(path))
        except ImageError as error:
            broken[index] = f"{path} cannot be read as an image ({error})"
            return torch.zeros(3, self.px, self.px)
        found: Tensor = self._transform(picture)
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
                f"the memory of {self._device} is too small for {BATCH_SIZE} at a time of "
                f"{self.name}: measure it where there is more"
            ) from error
        return torch.cat(rows).numpy()


def load_open_clip_peer(name: str) -> OpenClipPeer:
    """The model `name`, of weights in safetensors, on a GPU if there is one.

    Args:
        name: as docs/towers.md says it, such as open_clip:ARCH/WEIGHTS or open_clip:FOLDER.

    Raises:
        UserError: no such model or weights, weights as a pickle, or files that do not fit.
    """
    release = find_release(name)
    tokenizer = open_tokenizer(name)
    try:
        with silence():
            model = _build(release)
            open_clip.load_checkpoint(model, str(release.weights))
    except Exception as error:  # whatever lies below open_clip: files, settings, sizes
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} cannot be built from {release.weights}: {reason}") from error
    return OpenClipPeer(
        model.to(find_device()), tokenizer, name=name, weights_sha256=hash_file(release.weights)
    )


def _build(release: Release) -> nn.Module:
    """The architecture with random weights. open_clip's own loading would take a pickle."""
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


def _square(size: int | Sequence[int], name: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UserError(f"{name} reads images of {size} pixels: only squares are measured here")
    return int(sides.pop())
