"""A trained model as a library sees it: images and texts in, embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.errors import UserError
from data.tokens import TokenStore, tokenize
from vse import tokenizer as tokenizers
from vse.assembly import rebuild
from vse.checkpoint import load_tensors
from vse.checkpoint_names import CONFIG, MODEL, TOKENIZER
from vse.encoding import embed_images, embed_texts
from vse.model import D2SModel
from vse.pixels import ImageList
from vse.run_state import read_config
from vse.tokenizer import TextTokenizer


class Embedder:
    """A model in evaluation mode with its tokenizer, its input size and its config.json."""

    def __init__(self, model: D2SModel, tokenizer: TextTokenizer, config: dict[str, Any]) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.config = config
        self.px: int = config["model"]["image"]["px"]

    def encode_image(
        self, images: Sequence[Image.Image | str | Path], *, batch_size: int = 64
    ) -> np.ndarray:
        """(N, D) float32 of length 1; each image stretched to the square of the training."""
        return embed_images(self.model, ImageList(images, px=self.px), batch_size=batch_size)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """(M, D) float32 of length 1."""
        store = self.tokenize(texts)
        return embed_texts(self.model, store, pad_id=self.tokenizer.pad_id, batch_size=batch_size)

    def similarity(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Cosines of embeddings, (N, D) x (M, D) -> (N, M)."""
        return images @ texts.T

    def tokenize(self, texts: Sequence[str]) -> TokenStore:
        """Token ids, cut where training cut them."""
        limit = self.config["model"]["text"]["max_tokens"]
        return tokenize(texts, self.tokenizer.backend, max_tokens=limit)


def load_embedder(path: str | Path, *, device: str | torch.device | None = None) -> Embedder:
    """Load a run's best model, on the given device, else a GPU if there is one.

    Raises:
        UserError: no finished run there, or damaged files.
    """
    folder = Path(path)
    config = read_config(folder)
    if config is None:
        raise UserError(
            f"{folder} holds no trained model (no {CONFIG}): "
            "train one with `d2s train`, or name its folder with --model"
        )
    if not (folder / MODEL).is_file():
        raise UserError(
            f"{folder} has no {MODEL} yet: the run was never evaluated; "
            "run the same `d2s train` command again to continue it"
        )
    model = rebuild(config["model"])
    try:
        model.load_state_dict(load_tensors(folder / MODEL))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / MODEL} does not fit its {CONFIG}: {reason}") from error
    if device is None:
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return Embedder(model.to(device), tokenizers.load(folder / TOKENIZER), config)
