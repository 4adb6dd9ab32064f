"""Images per second of the training loader and torchvision's ImageFolder, same transforms.

    python -m benchmarks.loader [--px 224 384] [--workers 0 2] [--rounds 5] [--docs docs/benchmarks]

Every way reads the same JPEGs of generated scenes: a crop with the same share of both sides, u ~
U(0.6, 1), stretched to a square, flipped half the time, normalized, in batches of `--batch`, until
they are float tensors (B, 3, px, px) for a tower. d2s also augments and pads a caption for each
image, unlike the others. There are two variants of torchvision: transforms on tensors, and on
Pillow images, as in most scripts. Each round runs every variant once, in rotating order; ratios are
computed within a round, and medians are shown. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.documents import write_figures
from data.scenes.folder import make_truth
from data.scenes.render import render
from vse.model.tokenizer.tokenizer import build
from vse.model.tokenizer.tokens import tokenize
from vse.model.towers import normalise
from vse.recipes import DataConfig
from vse.samples.batches import BatchSettings, BatchSources, Texts, TrainBatches
from vse.samples.images import ImageList
from vse.samples.sampler import StepSampler

SIZE = (500, 375)  # of a photo of Flickr30K
CROP_MIN, FLIP = 0.6, 0.5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = ("d2s", "tensors", "pillow")
TITLES = {
    "d2s": "d2s, captions included",
    "tensors": "torchvision, transforms on tensors",
    "pillow": "torchvision, transforms on Pillow images",
}


class EvenCrop(torch.nn.Module):
    """`vse.samples.augmentation.draw_crop` for torchvision: r ~ U(0.6, 1) of both sides."""

    def __init__(self, px: int) -> None:
        super().__init__()
        self.px = px

    def forward(self, image: Any) -> Any:
        """An image or a (3, H, W) tensor -> px x px of the same kind."""
        height, width = v2.functional.get_size(image)
        share = CROP_MIN + (1 - CROP_MIN) * float(torch.rand(()))
        rows, columns = round(share * height), round(share * width)
        top = int(torch.randint(height - rows + 1, ()))
        left = int(torch.randint(width - columns + 1, ()))
        size = [self.px, self.px]
        return v2.functional.resized_crop(image, top, left, rows, columns, size, antialias=True)


def write_images(folder: Path, count: int) -> None:
    """Write `count` scenes as JPEGs of a photo's size, with a caption each."""
    (folder / "all").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        captions = list(pool.map(_write_image, [folder] * count, range(count)))
    (folder / "captions.txt").write_text("".join(f"{line}\n" for line in captions))


def _write_image(folder: Path, index: int) -> str:
    truth = make_truth(0, "train", index)
    picture = render(truth.scene, seed=0).resize(SIZE, Image.Resampling.BICUBIC)
    picture.save(folder / "all" / f"{index:05d}.jpg", quality=90)
    return truth.captions[0]


def open_ours(folder: Path, px: int, batch: int, workers: int) -> Iterator[Tensor]:
    """One epoch through d2s's training batches."""
    captions = (folder / "captions.txt").read_text().splitlines()
    paths = sorted((folder / "all").iterdir())
    tokenizer = build(captions, vocab_size=2000)
    sampler = StepSampler(len(paths), batch_size=batch, seed=0)
    texts = Texts(tokenize(captions, tokenizer, max_tokens=64), np.arange(len(paths)))
    data = DataConfig(crop_min=CROP_MIN, flip=FLIP)
    batches = TrainBatches(
        BatchSources(ImageList(paths, px=px), texts),
        BatchSettings(data, per_image=True, token_count=1, token_drop=0.0),
        tokenizer=tokenizer,
        sampler=sampler,
        steps=sampler.steps_per_epoch,
    )
    steps = range(len(batches))
    loader = DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    for made in loader:
        yield normalise(made.pixels, mean=mean, std=std)


def open_theirs(
    folder: Path, px: int, batch: int, workers: int, *, tensors: bool
) -> Iterator[Tensor]:
    """One epoch through ImageFolder."""
    steps = [EvenCrop(px), v2.RandomHorizontalFlip(FLIP)]
    steps = [v2.PILToTensor(), *steps] if tensors else [*steps, v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    images = ImageFolder(str(folder), transform=v2.Compose(steps))
    loader = DataLoader(images, batch_size=batch, shuffle=True, num_workers=workers, drop_last=True)
    for pixels, _ in loader:
        yield pixels


def measure_rate(open_epoch: Callable[[], Iterator[Tensor]], px: int) -> float:
    """Images per second after the first batch, when all worker processes are running."""
    began, count = 0.0, 0
    for made in open_epoch():
        assert made.shape[1:] == (3, px, px) and made.dtype == torch.float32
        if began:
            count += len(made)
        else:
            began = time.perf_counter()
    return count / (time.perf_counter() - began)


def measure(folder: Path, px: int, workers: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Rates of all variants in each round, with medians and ratios."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    given = (folder, px, settings.batch, workers)
    ways: dict[str, Callable[[], Iterator[Tensor]]] = {
        "d2s": lambda: open_ours(*given),
        "tensors": lambda: open_theirs(*given, tensors=True),
        "pillow": lambda: open_theirs(*given, tensors=False),
    }
    for number in range(settings.rounds):
        turn = number % len(WAYS)
        for way in WAYS[turn:] + WAYS[:turn]:
            rates[way].append(measure_rate(ways[way], px))
            print(f"{px} px, {workers} workers: {way} {rates[way][-1]:.0f} images/s",
                  file=sys.stderr, flush=True)  # fmt: skip
    return {
        "px": px,
        "workers": workers,
        "ways": {
            way: {
                "images_per_s": statistics.median(found),
                "d2s_to_it": statistics.median(
                    ours / its for ours, its in zip(rates["d2s"], found, strict=True)
                ),
                "rates": found,
            }
            for way, found in rates.items()
        },
    }


def write_text(figures: dict[str, Any]) -> str:
    """The table."""
    rows = [
        ("| input | loader processes | way | images/s | d2s relative to it |"),
        "|---|---|---|---|---|",
    ]
    for cell in figures["cells"]:
        for way, found in cell["ways"].items():
            rows.append(
                f"| {cell['px']} px | {cell['workers']} | {TITLES[way]} | "
                f"{found['images_per_s']:.0f} | {found['d2s_to_it']:.2f} |"
            )
    return (
        f"{figures['machine']}; torch {figures['torch']}, torchvision {figures['torchvision']}; "
        f"{figures['images']:,} JPEGs of {SIZE[0]} x {SIZE[1]}, batches of {figures['batch']}, "
        f"medians of {figures['rounds']} paired rounds. With 0 loader processes, the training "
        "process itself reads the images.\n\n" + "\n".join(rows) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--px", type=int, nargs="+", default=[224, 384])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, help="folder for loader.md and .json")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "images": settings.images,
        "batch": settings.batch,
        "rounds": settings.rounds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, settings.images)
        figures["cells"] = [
            measure(folder, px, workers, settings)
            for px in settings.px
            for workers in settings.workers
        ]
    text = write_text(figures)
    write_figures(settings.docs, "loader", title="The loader", text=text, figures=figures)


if __name__ == "__main__":
    main()
