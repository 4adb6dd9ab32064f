"""Every setting of a training run, as frozen dataclasses; no torch here.

A recipe is a YAML file with the sections of `Recipe` plus `stages`, which overrides any of them
for one stage ("1", "2" or "sparse"). An unknown key is an error that names the nearest known one.
"""

from vse.recipes.data import DataConfig
from vse.recipes.decoder import DecoderConfig
from vse.recipes.loss import LossConfig
from vse.recipes.optim import OptimConfig
from vse.recipes.parsing import build
from vse.recipes.settings import STAGES, Recipe
from vse.recipes.teacher import TeacherConfig
from vse.recipes.towers import ImageTowerConfig, TextTowerConfig

__all__ = [
    "STAGES",
    "DataConfig",
    "DecoderConfig",
    "ImageTowerConfig",
    "LossConfig",
    "OptimConfig",
    "Recipe",
    "TeacherConfig",
    "TextTowerConfig",
    "build",
]
