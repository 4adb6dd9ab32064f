"""All sections of settings together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vse.recipes.data import DataConfig
from vse.recipes.decoder import DecoderConfig
from vse.recipes.loss import LossConfig
from vse.recipes.optim import OptimConfig
from vse.recipes.teacher import TeacherConfig
from vse.recipes.towers import ImageTowerConfig, TextTowerConfig

STAGES = ("1", "2", "sparse")


@dataclass(frozen=True)
class Recipe:
    """One stage's complete settings; a section that is not given has its defaults."""

    image: ImageTowerConfig
    text: TextTowerConfig
    width: int = 512  # D, the joint width
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        self.decoder.check_width(self.width)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
