"""Exports a model to ONNX files, compares them with it, and describes how to use them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.environment import name_install
from data.errors import UserError, first_line
from data.files.atomic import replace_folder, write_json
from vse.embedders.embedder import Embedder
from vse.model.text_batch import TextBatch
from vse.model.tokenizer import tokenizer as tokenizers
from vse.onnx.towers import ImageInput, TextInput, replace_pools
from vse.runs.config import PREPROCESSING, TOKENIZER
from vse.runs.models import ModelIdentity
from vse.sharing.package import describe_preprocessing

IMAGE, TEXT, ABOUT = "image.onnx", "text.onnx", PREPROCESSING
_FILES = {IMAGE, f"{IMAGE}.data", TEXT, f"{TEXT}.data", ABOUT, TOKENIZER}
# Maximum difference between outputs of length 1.
TOLERANCE = 1e-5
# ONNX files are limited to 2 GB; larger weights go to a separate file.
_LARGEST_FILE = 1_900_000_000


@dataclass(frozen=True)
class Exported:
    """The folder, and the largest difference between its outputs and the model's own."""

    folder: Path
    image_difference: float
    text_difference: float


def check_export(out: Path) -> None:
    """UserError if a package is missing, or anything but an earlier export would be replaced."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= _FILES):
        raise UserError(f"{out} exists and contains other files: use another --out")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX export needs {error.name}: {name_install('onnx')} brings it"
        ) from error


def export_towers(embedder: Embedder, identity: ModelIdentity, out: Path) -> Exported:
    """Write image.onnx, text.onnx, tokenizer/ and preprocessing.json, all of them or nothing.

    Args:
        embedder: on the CPU, in float32.

    Raises:
        UserError: a package is missing, the folder exists, a tower cannot be exported, or its
            outputs differ.
    """
    check_export(out)
    with replace_folder(out) as folder:
        write_image(embedder, folder / IMAGE)
        images = _compare_images(embedder, folder / IMAGE)
        write_text(embedder, folder / TEXT)
        texts = _compare_texts(embedder, folder / TEXT)
        tokenizers.save(embedder.tokenizer, folder / TOKENIZER)
        write_json(folder / ABOUT, describe_files(embedder, identity))
    return Exported(out, images, texts)


def describe_files(embedder: Embedder, identity: ModelIdentity) -> dict[str, Any]:
    """preprocessing.json: everything needed to use the files without torch."""
    about = describe_preprocessing(embedder.model, embedder.tokenizer, embedder.config["model"])
    image = {"file": IMAGE, "input": "pixel_values", "output": "image_embedding"}
    text = {"file": TEXT, "inputs": ["input_ids", "attention_mask"], "output": "text_embedding"}
    return {
        **about,
        "image": {**image, **about["image"]},
        "text": {**text, **about["text"]},
        "model": {
            "stage": embedder.config["stage"],
            "weights_sha256": identity.weights_sha256,
            "fingerprint": identity.fingerprint,
        },
    }


def write_image(embedder: Embedder, path: Path) -> None:
    """Export the image tower, for images of the training size. UserError if it fails."""
    model, px = embedder.model, embedder.px
    pixels = torch.zeros(2, 3, px, px)
    count = model.image.token_count(px)
    batch = torch.export.Dim("batch")
    with replace_pools({model.image: (count, count)}):
        _export(ImageInput(model), {"pixel_values": pixels}, {0: batch}, "image_embedding", path)


def write_text(embedder: Embedder, path: Path) -> None:
    """Export the text tower with the decoder, for any length. UserError if it fails."""
    model, most = embedder.model, int(embedder.config["model"]["text"]["max_tokens"])
    ids = torch.full((2, 4), embedder.tokenizer.pad_id)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    spans: dict[nn.Module, tuple[int, int]] = {model.text: (1, most)}
    if model.decoder is not None and model.decoder.pool is not None:
        count = len(model.decoder.mask_tokens)
        spans[model.decoder] = (count, count)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=most)}
    inputs = {"input_ids": ids, "attention_mask": mask}
    with replace_pools(spans):
        _export(TextInput(model), inputs, free, "text_embedding", path)


def _export(
    tower: nn.Module, inputs: dict[str, Tensor], free: dict[int, Any], output: str, path: Path
) -> None:
    import onnx_ir.passes.common as passes

    size = sum(weight.numel() * weight.element_size() for weight in tower.parameters())
    try:
        # Plain attention: fused kernels leave strides that the exporter cannot handle.
        with _quiet(), sdpa_kernel(SDPBackend.MATH):
            program = torch.onnx.export(
                tower.eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=tuple(free for _ in inputs),
                verbose=False,
            )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise UserError(f"{path.name} cannot be written: {first_line(error)}") from error
    assert program is not None
    # Every node contains the source lines it came from, with paths of this machine.
    passes.ClearMetadataAndDocStringPass()(program.model)
    program.save(str(path), external_data=size > _LARGEST_FILE)


def _compare_images(embedder: Embedder, path: Path) -> float:
    """The largest difference over batches of random pixels. UserError if it is too large."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for count in (1, 3):
        pixels = torch.randn(count, 3, embedder.px, embedder.px, generator=generator)
        with torch.no_grad():
            pairs.append(({"pixel_values": pixels}, embedder.model.encode_image(pixels)))
    return _compare(path, pairs)


def _compare_texts(embedder: Embedder, path: Path) -> float:
    """The largest difference over batches of random tokens of several lengths, with padding."""
    generator = torch.Generator().manual_seed(0)
    most = int(embedder.config["model"]["text"]["max_tokens"])
    pairs = []
    for lengths in ([3], [min(most, 12), 5, 2], [most, min(most, 7)]):
        counts = torch.tensor(lengths)
        shape = (len(lengths), max(lengths))
        ids = torch.randint(embedder.tokenizer.vocab_size, shape, generator=generator)
        mask = torch.arange(shape[1])[None, :] < counts[:, None]
        batch = TextBatch(ids, mask, counts, mask.flatten().nonzero()[:, 0])
        with torch.no_grad():
            expected = nn.functional.normalize(embedder.model.encode_text(batch), dim=-1)
        pairs.append(({"input_ids": ids, "attention_mask": mask.long()}, expected))
    return _compare(path, pairs)


def _compare(path: Path, pairs: Sequence[tuple[dict[str, Tensor], Tensor]]) -> float:
    session, worst = open_session(path), 0.0
    for inputs, expected in pairs:
        try:
            [found] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        except Exception as error:  # onnxruntime's exceptions have no common base class
            reason = first_line(error)
            raise UserError(f"{path.name} cannot be run for every batch: {reason}") from error
        worst = max(worst, float(np.abs(found - expected.numpy()).max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"{path.name} gives other embeddings than the model (by {worst:.1e}, allowed "
            f"{TOLERANCE:.0e}): this backbone cannot be exported faithfully"
        )
    return worst


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages; it raises errors that matter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
