"""Models by name: what is known before loading, and how to load them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from vse.evaluation.split import DualEncoder
from vse.runs.config import CONFIG, read_config
from vse.runs.models import find_model, missing_model

OPEN_CLIP = "open_clip:"
SENTENCE_TRANSFORMERS = "sentence-transformers:"
# The folder for results of models that have no local folder.
ELSEWHERE = Path("evaluations")


@dataclass(frozen=True)
class ModelReference:
    """A model that exists. `config` is config.json of a d2s model, None for others.

    `home` is the folder for its results; `load` loads it.
    """

    name: str
    home: Path
    config: Mapping[str, Any] | None
    load: Callable[[], DualEncoder]

    @property
    def folder(self) -> Path | None:
        """The folder of a training run, None if it is not on this machine."""
        return self.home if Path(self.name).is_dir() else None


def find_reference(name: str, *, dtype: str = "float32") -> ModelReference:
    """Find the model of a folder or the Hub, open_clip:NAME or sentence-transformers:NAME.

    Nothing is loaded yet. `dtype` is the precision of the computation; other models use float32.

    Raises:
        UserError: no such model, only pickled weights, or it is not available.
    """
    if Path(name).is_dir():
        name = str(Path(name))
        home = Path(name)
    else:
        home = ELSEWHERE / name_folder(name)
    if name.startswith((OPEN_CLIP, SENTENCE_TRANSFORMERS)):
        if dtype != "float32":
            raise UserError(f"{name} is measured in float32: omit --dtype")
        find = _find_open_clip if name.startswith(OPEN_CLIP) else _find_sentence_transformer
        return find(name, home)
    folder = find_model(name)
    config = read_config(folder)
    if config is None:
        raise missing_model(name, f"no {CONFIG}")

    def load() -> DualEncoder:
        from vse.embedders.embedder import TrainedEncoder

        return TrainedEncoder.load(folder, name=name, dtype=dtype)

    return ModelReference(name, home, config, load)


def name_folder(name: str) -> str:
    """`open_clip:ViT-B-32/laion2b` -> `open_clip-ViT-B-32-laion2b`: one folder, and not hidden."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "model"


def _find_open_clip(name: str, home: Path) -> ModelReference:
    from vse.embedders.open_clip import find_release, load_open_clip_encoder

    find_release(name)
    return ModelReference(name, home, None, lambda: load_open_clip_encoder(name))


def _find_sentence_transformer(name: str, home: Path) -> ModelReference:
    from vse.embedders.sentence_transformers import find_files, load_sentence_transformer

    folder = find_files(name.removeprefix(SENTENCE_TRANSFORMERS))
    return ModelReference(name, home, None, lambda: load_sentence_transformer(folder, name=name))
