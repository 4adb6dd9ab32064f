"""What is sent to a model that runs elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.llava.preprocess import fit_image
from captioner.settings.config import CaptionConfig
from captioner.settings.engine import EngineChoice, choose_engine
from data.errors import UsageError

RED = (255, 0, 0)


def choose(folder: Path, model: str, **options: Any) -> EngineChoice:
    config = CaptionConfig.of(model=model, images=folder, batch_file=folder / "requests", **options)
    return choose_engine(config, recorded={}, fetch=False)


def test_of_a_model_known_by_name_only_the_photo_is_sent_whole(tmp_path: Path) -> None:
    photo = Image.new("RGB", (4000, 3000), RED)
    assert fit_image(photo, choose(tmp_path, "gpt-4.1-mini").preprocessing).size == (4000, 3000)


def test_with_a_size_it_is_padded_to_a_square(tmp_path: Path) -> None:
    choice = choose(tmp_path, "gpt-4.1-mini", image_size=448)
    recorded = choice.settings["preprocessing"]
    assert (recorded["aspect"], recorded["size"]) == ("pad", 448)
    square = fit_image(Image.new("RGB", (400, 200), RED), choice.preprocessing)
    assert square.size == (448, 448)
    assert (square.getpixel((224, 224)), square.getpixel((224, 10))) == (
        RED,
        choice.preprocessing.fill,
    )


def test_a_run_of_an_earlier_version_goes_on_as_it_began(tmp_path: Path) -> None:
    before = choose(tmp_path, "gpt-4.1-mini", image_size=448).settings
    before["preprocessing"]["aspect"] = "keep"
    config = CaptionConfig.of(
        model="gpt-4.1-mini", images=tmp_path, batch_file=tmp_path / "r", image_size=448
    )
    assert choose_engine(config, recorded=before, fetch=False).settings == before


@pytest.mark.parametrize("aspect", ["crop", "squash"])
def test_another_aspect_stays(tmp_path: Path, aspect: str) -> None:
    chosen = choose(tmp_path, "gpt-4.1-mini", image_size=448, aspect=aspect).preprocessing
    assert (chosen.aspect, chosen.size) == (aspect, 448)


def test_a_size_beside_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--aspect keep"):
        choose(tmp_path, "gpt-4.1-mini", image_size=448, aspect="keep")
