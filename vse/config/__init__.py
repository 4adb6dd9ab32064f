"""Every setting of a training run, as frozen dataclasses; no torch here.

A recipe is a YAML file with the sections of `Recipe` plus `stages`, which overrides any of them
for one stage ("1", "2" or "sparse"). An unknown key is an error that names the nearest known one.
"""

from vse.config.build import build
from vse.config.data import DataConfig
from vse.config.decoder import DecoderConfig
from vse.config.loss import LossConfig
from vse.config.optim import OptimConfig
from vse.config.recipe import STAGES, Recipe
from vse.config.teacher import TeacherConfig
from vse.config.towers import ImageTowerConfig, TextTowerConfig

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
