"""Images and texts through the towers, in batches; every image once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from vse.model.d2s import D2SModel
from vse.model.text_batch import pad_texts
from vse.model.tokenizer.tokens import TokenStore

Report = Callable[[int, int], None]


class Pixels(Protocol):
    """Whole images by index, each a square of `px`; see `vse.samples.images`."""

    px: int

    def __len__(self) -> int: ...
    def read(self, index: int) -> np.ndarray:
        """(px, px, 3) uint8."""
        ...


def _say_nothing(done: int, total: int) -> None:
    """The report of those who do not ask for one."""


def find_device() -> torch.device:
    """The accelerator of this machine, else the CPU.

    A torch built for CUDA names it as its accelerator on machines without a GPU, too, unless it is
    asked to look.
    """
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@torch.no_grad()
def embed_images(
    model: D2SModel, pixels: Pixels, *, batch_size: int = 128, report: Report = _say_nothing
) -> np.ndarray:
    """(N, D) float32 of length 1, in order. The model is left in the mode it came in.

    `report` is called with (done, total) before the first batch and after each.
    """
    device, mode = _device(model), model.training
    model.eval()
    rows = []
    report(0, len(pixels))
    for start in range(0, len(pixels), batch_size):
        block = range(start, min(start + batch_size, len(pixels)))
        batch = torch.from_numpy(np.stack([pixels.read(index) for index in block]))
        shown = model.image.normalise(batch.to(device))
        rows.append(model.encode_image(shown).float().cpu())
        report(block.stop, len(pixels))
    model.train(mode)
    return torch.cat(rows).numpy()


@torch.no_grad()
def embed_texts(
    model: D2SModel,
    store: TokenStore,
    *,
    pad_id: int,
    batch_size: int = 128,
    unit: bool = True,
    decode: bool = True,
    report: Report = _say_nothing,
) -> np.ndarray:
    """(M, D) float32, in order; of length 1 with `unit`; without the decoder if not `decode`.

    Texts of like length go together, so that little padding is computed; in the order given if
    what a text becomes depends on its batch mates, as in the released code. `report` is called
    with (done, total) before the first batch and after each.
    """
    device, mode = _device(model), model.training
    model.eval()
    order = np.argsort(store.lengths(), kind="stable")
    if decode and model.reads_padding:
        order = np.arange(len(order))
    rows: np.ndarray | None = None
    report(0, len(order))
    for start in range(0, len(order), batch_size):
        block = order[start : start + batch_size]
        batch = pad_texts([store[int(i)] for i in block], pad_id=pad_id).to(device)
        found = model.encode_text(batch) if decode else model.text(batch)[0].float()
        if unit:
            found = torch.nn.functional.normalize(found, dim=-1)
        if rows is None:
            rows = np.empty((len(order), found.shape[1]), dtype=np.float32)
        rows[block] = found.cpu().numpy()
        report(min(start + batch_size, len(order)), len(order))
    model.train(mode)
    assert rows is not None
    return rows


def _device(model: D2SModel) -> torch.device:
    return next(model.parameters()).device
