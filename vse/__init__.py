"""D2S-VSE: models, training in two stages, and evaluation.

model = vse.load("runs/stage2")
model.similarity(model.encode_image(["photo.jpg"]), model.encode_text(["a red car"]))

docs/method.md suggests an order for reading the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vse.embedders.embedder import Embedder

__all__ = ["Embedder", "load"]


def load(path_or_repo: str | Path, *, device: Any = None, **options: Any) -> Embedder:
    """Load a trained model: `encode_image`, `encode_text`, `similarity`.

    Args:
        path_or_repo: the folder of a run, or a repository of the Hub (`owner/name`).
        device: by default a GPU if there is one.
        options: `dtype`, and for the Hub `revision`, `token`, `cache_dir`, `local_files_only`; see
            `Embedder.from_pretrained`.

    Raises:
        data.errors.UserError: there is no trained model.
    """
    # Not at the top: `import vse` must not import torch.
    from vse.embedders.embedder import Embedder

    return Embedder.from_pretrained(path_or_repo, device=device, **options)


def __getattr__(name: str) -> Any:
    # `vse.Embedder`, without importing torch before it is used.
    if name == "Embedder":
        from vse.embedders.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
