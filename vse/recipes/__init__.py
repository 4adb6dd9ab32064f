"""All settings of a training run, as frozen dataclasses, without torch.

A recipe is a YAML file with the sections of `Recipe` plus `stages`, which overrides any of them
for one stage (`STAGES`). An unknown key is an error that names the nearest known one.
"""

from data.settings.building import build
from vse.recipes.settings import (
    STAGES,
    DataConfig,
    DecoderConfig,
    ImageTowerConfig,
    LossConfig,
    OptimConfig,
    Recipe,
    TeacherConfig,
    TextTowerConfig,
)

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
