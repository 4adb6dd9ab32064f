"""Small folders of images for the captioner's tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, count: int, *, side: int = 24, prefix: str = "") -> list[str]:
    """`count` different PNGs named 0000.png, 0001.png, ...; returns their names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{prefix}{number:04d}.png" for number in range(count)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + 8, 3), np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return names
