"""Encoding images and texts in batches; every image once."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import nn

from vse.model.backbones import Backbone, describe_backbone
from vse.model.d2s import D2SModel
from vse.model.text_batch import pad_texts
from vse.model.tokenizer.tokens import TokenStore

Report = Callable[[int, int], None]
BATCH = 128  # default batch size of images or texts


class Pixels(Protocol):
    """Whole images by index, each a square of `px`; see `vse.samples.images`."""

    px: int

    def __len__(self) -> int: ...
    def read(self, index: int) -> np.ndarray:
        """(px, px, 3) uint8."""
        ...


def say_nothing(done: int, total: int) -> None:
    """The default report, which does nothing."""


def find_device() -> torch.device:
    """The accelerator of this machine, else the CPU.

    A CUDA build of torch reports CUDA as its accelerator even without a GPU, unless it is told to
    check.
    """
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@torch.no_grad()
def embed_images(
    model: D2SModel,
    pixels: Pixels,
    *,
    batch_size: int = BATCH,
    threads: int = 0,
    report: Report = say_nothing,
) -> np.ndarray:
    """(N, D) float32 of length 1, in order. The model's mode is restored.

    Args:
        threads: number of threads that read the next batch meanwhile; 0: read in the main thread.
        report: called with (done, total) before the first batch and after each.
    """
    device, mode = _device(model), model.training
    model.eval()
    rows, done = [], 0
    report(0, len(pixels))
    for batch in read_ahead(pixels, batch_size, threads):
        shown = model.image.normalise(torch.from_numpy(batch).to(device))
        rows.append(model.encode_image(shown).float().cpu())
        done += len(batch)
        report(done, len(pixels))
    model.train(mode)
    return torch.cat(rows).numpy()


def read_ahead(pixels: Pixels, batch_size: int, threads: int) -> Iterator[np.ndarray]:
    """The images, (b, px, px, 3) uint8 at a time; see `embed_images`."""
    count = len(pixels)
    blocks = [range(at, min(at + batch_size, count)) for at in range(0, count, batch_size)]
    if threads == 0:
        yield from (np.stack([pixels.read(index) for index in block]) for block in blocks)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    ahead: deque[list[Future[np.ndarray]]] = deque()
    try:
        for block in blocks:
            ahead.append([pool.submit(pixels.read, index) for index in block])
            if len(ahead) > 1:
                yield np.stack([image.result() for image in ahead.popleft()])
        while ahead:
            yield np.stack([image.result() for image in ahead.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


@torch.no_grad()
def embed_texts(
    model: D2SModel,
    store: TokenStore,
    *,
    pad_id: int,
    batch_size: int = BATCH,
    unit: bool = True,
    decode: bool = True,
    report: Report = say_nothing,
) -> np.ndarray:
    """(M, D) float32, in order; of length 1 with `unit`; without the decoder if not `decode`.

    Texts of similar length are batched together to reduce padding; the order is kept if an
    embedding depends on its batch, as in the released code. `report` is called with (done, total)
    before the first batch and after each.
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
        texts = [store[int(i)] for i in block]
        batch = pad_texts(texts, pad_id=pad_id, states=store.states_of(block)).to(device)
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


def hash_model(module: nn.Module) -> hashlib._Hash:
    """Start a hash of a cache key with the weights and the architecture."""
    key = hashlib.sha256()
    for part in module.modules():
        if isinstance(part, Backbone):
            # Heads, activations and epsilons are not visible in the shapes of weights.
            key.update(json.dumps(describe_backbone(part), sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        key.update(name.encode())
        key.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return key


def _device(model: D2SModel) -> torch.device:
    return next(model.parameters()).device
