"""The teacher of stage 2: the frozen text tower of stage 1, reading the dense text."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from data.environment import count_cores
from data.files.atomic import replace_whole
from vse.model.d2s import D2SModel
from vse.model.encoding import embed_images, embed_texts, hash_model
from vse.model.text_batch import TextBatch
from vse.model.tokenizer.tokens import TokenStore
from vse.model.towers import TextTower
from vse.runs.folder import load_tensors
from vse.samples.images import Pixels


def freeze_teacher(model: D2SModel) -> D2SModel:
    """A frozen copy of the model without decoder, in evaluation mode."""
    teacher = D2SModel(copy.deepcopy(model.image), copy.deepcopy(model.text), None)
    teacher.requires_grad_(False)
    return teacher.eval()


def cached_teacher(
    teacher: D2SModel, dense: TokenStore, *, pad_id: int, folder: Path, batch_size: int = 128
) -> Tensor:
    """Embeddings of all dense texts, (N, D), computed once; not of length 1.

    The teacher reads whole texts without dropout, so its output never changes and a step only needs
    a lookup instead of a second text tower. Cached in `folder` by weights and texts.
    """

    def embed() -> np.ndarray:
        return embed_texts(
            teacher, dense, pad_id=pad_id, batch_size=batch_size, unit=False, decode=False
        )

    key = hash_model(teacher.text)
    key.update(dense.ids.tobytes())
    key.update(dense.starts.tobytes())
    return _keep(folder / f"teacher-{key.hexdigest()[:16]}.safetensors", embed)


def cached_images(
    teacher: D2SModel, pixels: Pixels, *, names: Sequence[str], folder: Path
) -> Tensor:
    """The teacher's embeddings of the uncropped images, (N, D) of length 1.

    Computed once and cached in `folder` by weights and `names`, which identify the images.
    """
    key = hash_model(teacher.image)
    key.update(f"{pixels.px}\n".encode())
    for name in names:
        key.update(os.fsencode(name) + b"\n")
    path = folder / f"teacher-images-{key.hexdigest()[:16]}.safetensors"
    return _keep(path, lambda: embed_images(teacher, pixels, threads=count_cores()))


class OnlineTeacher(nn.Module):
    """Embeds the dense texts in each batch instead of looking up their embeddings.

    Args:
        moving: as in the released code: follow the stage into training mode, with dropout and
            updates of BatchNorm. Otherwise the results are those of `cached_teacher`.
    """

    def __init__(self, tower: TextTower, *, moving: bool) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.moving = moving
        self.train(self.training)

    def train(self, mode: bool = True) -> OnlineTeacher:
        """Only a moving teacher enters training mode."""
        return super().train(mode and self.moving)

    @torch.no_grad()
    def forward(self, text: TextBatch) -> Tensor:
        """Dense texts (b, L) -> t (b, D), in float32, not of length 1."""
        if self.moving:
            return self.tower(text)[0].float()
        # The cache is computed in full precision, so this must be, too.
        with torch.autocast(text.ids.device.type, enabled=False):
            return self.tower(text)[0].float()


def _keep(path: Path, embed: Callable[[], np.ndarray]) -> Tensor:
    """Read the table from a file, or compute and write it."""
    if path.is_file():
        return load_tensors(path)["teacher"]
    table = torch.from_numpy(embed())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        save_file({"teacher": table}, temporary)
    return table
