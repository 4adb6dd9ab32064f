"""Renders a scene: textured things with a dark edge on a textured ground, slightly displaced."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data.scenes.world import Scene, Thing, scene_rng

PIXELS = 192
_CELL = PIXELS // 3
_SUPERSAMPLE = 3  # shape masks are drawn this much larger and shrunk, which smooths their edges
_RADIUS = {"small": (17.5, 20.0), "large": (27.0, 30.0)}
_INK = {
    "red": (214, 40, 40), "orange": (245, 135, 20), "yellow": (250, 220, 40),
    "green": (40, 165, 70), "blue": (40, 90, 225), "purple": (140, 50, 180),
    "pink": (250, 130, 185), "white": (246, 246, 246),
}  # fmt: skip
_GROUND = {
    "grass": (120, 170, 90), "sand": (222, 196, 140), "snow": (226, 234, 240),
    "water": (110, 175, 200), "brick": (165, 100, 80), "night": (35, 38, 66),
}  # fmt: skip
_EDGE = (22, 20, 24)


def render(scene: Scene, *, seed: int) -> Image.Image:
    """The image of a scene: RGB, PIXELS x PIXELS, the same for the same scene and seed."""
    rng = scene_rng(seed, scene.split, scene.index, 1)
    image = Image.fromarray(_draw_ground(scene.ground, rng))
    for thing in scene.things:
        _draw_thing(image, thing, rng)
    return image


def _draw_ground(ground: str, rng: np.random.Generator) -> np.ndarray:
    """(PIXELS, PIXELS, 3) uint8: a base color, blotches, grain and the ground's marks."""
    base = np.array(_GROUND[ground], np.float32) + rng.normal(0, 5, 3).astype(np.float32)
    blotches = Image.fromarray(rng.normal(0, 9, (7, 7)).astype(np.float32))
    light = np.asarray(blotches.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)).copy()
    light += rng.standard_normal((PIXELS, PIXELS), np.float32) * 4
    row, column = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float32)
    if ground == "water":
        light += 12 * np.sin(row / 5 + 2 * np.sin(column / 23) + rng.uniform(0, 6))
    elif ground == "brick":
        course = row // 16
        joint = (row % 16 < 2) | ((column + 16 * (course % 2)) % 32 < 2)
        light += np.where(joint, 38, 0)
    elif ground == "night":
        stars = rng.random((PIXELS, PIXELS)) > 0.9985
        light += np.where(stars, 150, 0)
    elif ground == "grass":
        light += rng.standard_normal((PIXELS // 4, PIXELS), np.float32).repeat(4, 0)[:PIXELS] * 9
    return np.clip(base + light[..., None], 0, 255).astype(np.uint8)


def _draw_thing(image: Image.Image, thing: Thing, rng: np.random.Generator) -> None:
    low, high = _RADIUS[thing.size]
    radius = float(rng.uniform(low, high))
    slack = _CELL / 2 - radius + 2
    across = _CELL * (thing.column + 0.5) + float(rng.uniform(-slack, slack))
    down = _CELL * (thing.row + 0.5) + float(rng.uniform(-slack, slack))
    turn = float(rng.uniform(-15, 15))
    side = 2 * int(radius + 4)
    corner = (round(across - side / 2), round(down - side / 2))
    edge = _draw_mask(thing.shape, side, radius + 1.6, turn)
    image.paste(Image.new("RGB", (side, side), _EDGE), corner, edge)
    fill = Image.fromarray(_draw_texture(thing, side, rng))
    image.paste(fill, corner, _draw_mask(thing.shape, side, radius - 0.6, turn))


def _draw_mask(shape: str, side: int, radius: float, turn: float) -> Image.Image:
    """An "L" mask (side, side) of the shape, `radius` pixels from its center to its edge."""
    large = side * _SUPERSAMPLE
    mask = Image.new("L", (large, large), 0)
    pen = ImageDraw.Draw(mask)
    middle, reach = large / 2, radius * _SUPERSAMPLE

    def disc(size: float, ink: int, dx: float = 0.0, dy: float = 0.0) -> None:
        x, y, r = middle + dx * reach, middle + dy * reach, size * reach
        pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)

    if shape == "circle":
        disc(0.95, 255)
    elif shape == "ring":
        disc(0.98, 255)
        disc(0.44, 0)
    elif shape == "moon":
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        disc(0.98, 255)
        disc(0.72, 0, 0.5 * c, 0.5 * s)
    else:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        corners = [
            (middle + reach * (x * c - y * s), middle + reach * (x * s + y * c))
            for x, y in _outline(shape)
        ]
        pen.polygon(corners, fill=255)
    return mask.resize((side, side), Image.Resampling.BOX)


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """The corners of a shape that fills the unit circle, y downwards."""
    if shape == "square":
        return ((-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78))
    if shape == "triangle":
        return ((0.0, -0.95), (0.95, 0.72), (-0.95, 0.72))
    if shape == "cross":
        a, b = 0.34, 0.96
        return (
            (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
            (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
        )  # fmt: skip
    if shape == "star":
        turns = [(math.pi * k / 5, 1.05 if k % 2 == 0 else 0.46) for k in range(10)]
        return tuple((r * math.sin(t), -r * math.cos(t)) for t, r in turns)
    if shape == "heart":
        points = []
        for k in range(40):
            t = 2 * math.pi * k / 40
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x / 16.5, -(y + 2.5) / 15.5))
        return tuple(points)
    raise AssertionError(f"no outline for {shape}")


def _draw_texture(thing: Thing, side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8: the thing's colour, with darker stripes, spots or checks."""
    ink = np.array(_INK[thing.colour], np.float32) + rng.normal(0, 7, 3).astype(np.float32)
    row, column = np.mgrid[0:side, 0:side].astype(np.float32)
    row += float(rng.uniform(0, 12))
    column += float(rng.uniform(0, 12))
    if thing.texture == "striped":
        along = (row, column, (row + column) * 0.7071, (row - column) * 0.7071)[rng.integers(4)]
        dark = along % 10 < 5
    elif thing.texture == "spotted":
        dark = (row % 11 - 5.5) ** 2 + (column % 11 - 5.5) ** 2 < 10.5
    elif thing.texture == "checked":
        dark = ((row // 7) + (column // 7)) % 2 == 0
    else:
        dark = np.zeros((side, side), bool)
    shade = np.where(dark, 0.42, 1.0)[..., None]
    return np.clip(ink * shade, 0, 255).astype(np.uint8)
