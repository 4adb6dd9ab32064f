"""D2S-VSE: the towers, the two stages, the measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vse.embedder import Embedder


def load(path: str | Path, *, device: Any = None) -> Embedder:
    """Load a trained model: `encode_image`, `encode_text`, `similarity`.

    Raises:
        data.errors.UserError: no trained model there.
    """
    # Not at the top: `import vse` must not import torch.
    from vse.embedder import load_embedder

    return load_embedder(path, device=device)
