"""A model of ours as a peer: its preprocessing is that of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.files.hashes import hash_file
from vse.embedders.embedder import Embedder
from vse.evaluation.peer import Report
from vse.evaluation.split import how_far, picked_on
from vse.model.encoding import embed_images, embed_texts
from vse.runs.checkpoint_names import MODEL
from vse.samples.images import LenientImages


class TrainedPeer:
    """An `Embedder` that is measured; `name` is how the user calls it."""

    def __init__(self, embedder: Embedder, *, name: str) -> None:
        self.embedder = embedder
        self.name = name
        self.px = embedder.px

    def embed_files(
        self, paths: Sequence[Path], *, report: Report
    ) -> tuple[np.ndarray, Mapping[int, str]]:
        pixels = LenientImages(list(paths), px=self.px)
        return embed_images(self.embedder.model, pixels, report=report), pixels.broken

    def embed_captions(self, captions: Sequence[str], *, report: Report) -> np.ndarray:
        own = self.embedder
        tokens = own.tokenize(captions)
        return embed_texts(own.model, tokens, pad_id=own.tokenizer.pad_id, report=report)

    def describe(self) -> dict[str, Any]:
        config, folder = self.embedder.config, self.embedder.folder
        assert folder is not None
        return {
            "stage": config["stage"],
            "picked_on": picked_on(config),
            "px": self.px,
            "resize": "squash, bilinear",
            "max_tokens": config["model"]["text"]["max_tokens"],
            "weights_sha256": hash_file(folder / MODEL),
            **how_far(folder),
        }
