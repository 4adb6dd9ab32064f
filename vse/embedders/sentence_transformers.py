"""A sentence-transformers model that embeds images and texts; the package is optional.

The package does all preprocessing and computation. No pickles or code are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.errors import UserError, one_line
from data.escaping import show_name
from data.files.hashes import hash_file
from data.images import ImageError, decode_image, read_file
from vse.evaluation.split import Report
from vse.model.encoding import find_device
from vse.runs.models import PICKLES, hash_model

BATCH_SIZE = 64
_UNREAD = [*(f"*{suffix}" for suffix in sorted(PICKLES)), "*.py", "*.h5", "onnx/*", "openvino/*"]


class SentenceTransformerEncoder:
    """`model` is a SentenceTransformer. EXIF orientation and white background as for d2s models."""

    def __init__(self, model: Any, *, name: str, weights_sha256: str, fingerprint: str) -> None:
        self.name = name
        self.model = model
        self.px = _find_px(model, name)
        self._weights_sha256 = weights_sha256
        self._fingerprint = fingerprint

    def embed_files(
        self, paths: Sequence[Path], *, report: Report
    ) -> tuple[np.ndarray, Mapping[int, str]]:
        broken: dict[int, str] = {}

        def read(index: int) -> Image.Image:
            try:
                return decode_image(read_file(paths[index]))
            except ImageError as error:
                broken[index] = str(error)
                return Image.new("RGB", (self.px, self.px))

        return self._embed(read, len(paths), report), broken

    def embed_captions(self, captions: Sequence[str], *, report: Report) -> np.ndarray:
        return self._embed(captions.__getitem__, len(captions), report)

    def describe(self) -> dict[str, Any]:
        return {
            "stage": None,
            "picked_on": None,
            "px": self.px,
            "resize": "the model's own processor",
            "max_tokens": self.model.max_seq_length,
            "weights_sha256": self._weights_sha256,
            "fingerprint": self._fingerprint,
            "finished": None,
            "step": None,
            "best_step": None,
        }

    def _embed(self, read: Any, total: int, report: Report) -> np.ndarray:
        rows = []
        report(0, total)
        for start in range(0, total, BATCH_SIZE):
            stop = min(start + BATCH_SIZE, total)
            found = self.model.encode(
                [read(index) for index in range(start, stop)],
                batch_size=BATCH_SIZE,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            )
            rows.append(np.asarray(found, np.float32))
            report(stop, total)
        return np.concatenate(rows)


def find_files(name: str) -> Path:
    """The folder of a model; a model on the Hub is downloaded first, without pickles and code.

    Raises:
        UserError: no such model, or no weights in safetensors.
    """
    folder = Path(name) if Path(name).is_dir() else _fetch(name)
    pickles = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in PICKLES and not any(path.parent.glob("*.safetensors"))
    ]
    if pickles or not any(folder.rglob("*.safetensors")):
        what = f"pickled weights ({pickles[0].name})" if pickles else "no safetensors weights"
        raise UserError(
            f"{name} has {what}: reading a pickle can run code, so it is not read; ask its authors "
            "for safetensors"
        )
    _refuse_code(folder, name)
    return folder


def _refuse_code(folder: Path, name: str) -> None:
    """UserError for classes from elsewhere: before version 6, the package runs a folder's code."""
    for path in [*folder.rglob("modules.json"), *folder.rglob("router_config.json")]:
        try:
            kinds = list(_list_classes(json.loads(path.read_bytes())))
        except ValueError as error:
            raise UserError(f"{name} cannot be read: {path} is not JSON") from error
        for kind in kinds:
            if not kind.startswith("sentence_transformers."):
                raise UserError(
                    f"{name} needs code of its own ({show_name(kind)} in {path.name}), which is "
                    "not run: use a model whose modules are all from sentence_transformers"
                )


def _list_classes(value: Any) -> Iterator[str]:
    """The classes named in a model's JSON: a list of modules, or `types` by name."""
    if isinstance(value, list):
        yield from (
            str(part["type"]) for part in value if isinstance(part, dict) and "type" in part
        )
    elif isinstance(value, dict) and isinstance(value.get("types"), dict):
        yield from map(str, value["types"].values())


def load_sentence_transformer(folder: Path, *, name: str) -> SentenceTransformerEncoder:
    """Load the model in `folder`, onto a GPU if there is one.

    Raises:
        UserError: the package is not installed, or the model cannot be built or takes no images.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"{name} needs a package that is missing: pip install sentence-transformers"
        ) from error
    try:
        model = SentenceTransformer(
            str(folder), device=str(find_device()), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the package can raise anything: files, settings, sizes
        raise UserError(f"{name} cannot be built from {folder}: {one_line(error)}") from error
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        total.update(f"{path.relative_to(folder)} {hash_file(path)}\n".encode())
    weights = total.hexdigest()
    fingerprint = hash_model(weights, folder.rglob("*.json"))
    return SentenceTransformerEncoder(
        model, name=name, weights_sha256=weights, fingerprint=fingerprint
    )


def _fetch(name: str) -> Path:
    # Not at the top: local models do not need it.
    import httpx2
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=_UNREAD))
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx2.HTTPError, OSError) as error:
        raise UserError(
            f"{name} is neither a folder nor available from the Hub: {one_line(error)}"
        ) from error


def _find_px(model: Any, name: str) -> int:
    """The side of the square to which its images are resized."""
    processor = getattr(model[0], "processor", None)
    images = getattr(processor, "image_processor", None)
    for size in (getattr(images, "crop_size", None), getattr(images, "size", None)):
        known = size if isinstance(size, int) else dict(size or {})
        side = known if isinstance(known, int) else known.get("height", known.get("shortest_edge"))
        if side:
            return int(side)
    raise UserError(
        f"{name} does not embed images, or does not declare their size: use another model"
    )
