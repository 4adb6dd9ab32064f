"""Every family of models that has a short name, in the real vLLM: small, with random weights.

One engine a family, one after the other in this process.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from captioner.engine.factory import build_engine
from captioner.llava.preprocess import fit_image
from captioner.run.session import run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from data.images import decode_image
from tests.captioner.images import write_images
from tests.captioner.vision_models import FAMILIES, save_model

pytestmark = pytest.mark.vllm

PROMPT = "Describe this image in detail."


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What the start of an engine does to this process is put back."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    before = dict(os.environ), torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    cleanup_dist_env_and_memory()
    os.environ.clear()
    os.environ.update(before[0])
    torch.set_num_threads(before[1])
    torch.set_rng_state(before[2])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Usual ones, an odd one (grey of 16 bits), and one that is thirty times as long as high."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 6, side=150)
    Image.new("I;16", (90, 130), 40000).save(folder / "odd.png")
    Image.linear_gradient("L").resize((900, 30)).convert("RGB").save(folder / "wide.png")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family: str, photos: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    if family == "smolvlm2":
        pytest.importorskip("num2words", reason="its processor wants it: pip install num2words")
    folder = save_model(family, tmp_path / family)
    config = CaptionConfig.of(
        model=str(folder), images=photos, out=tmp_path / "out", temperature=0.0, max_tokens=12
    )
    prepared = prepare_caption(config)
    engine = build_engine(prepared.choice.description)
    result = run_prepared(
        replace(prepared, choice=replace(prepared.choice, start=lambda _: engine))
    )
    assert (result.ok, result.errors) == (8, 0)
    rows = read_rows(tmp_path / "out").to_pylist()
    # The photos reach the model: it has not the same to say of all of them.
    assert len({row["caption"] for row in rows}) > 1
    # Each takes the tokens that transformers would give it: of the same pixels, in the same place.
    processor: Any = AutoProcessor.from_pretrained(folder)
    prompt = read_run(tmp_path / "out")["engine"]["rendered_prompt"]
    assert PROMPT in prompt
    text = prompt if processor.image_token in prompt else processor.image_token + prompt.rstrip()
    for row in rows:
        image = decode_image((photos / row["file_name"]).read_bytes())
        shown = fit_image(image, prepared.choice.preprocessing)
        inputs = processor(text=[text], images=[shown])
        assert row["prompt_tokens"] == len(inputs["input_ids"][0]), row["file_name"]


@pytest.mark.parametrize("prompt", ["user: Describe it.\nassistant:", "[IMG] [IMG] Describe it."])
def test_a_prompt_that_leaves_the_image_out_is_refused_at_the_start(
    prompt: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is not there, or is there twice: whatever becomes of it, no text is written."""
    folder = save_model("pixtral", tmp_path / "pixtral")
    config = CaptionConfig.of(model=str(folder), images=photos, out=tmp_path / "out", max_tokens=12)
    description = prepare_caption(config).choice.description
    monkeypatch.setattr("captioner.engine.vllm.render_prompt", lambda *_: prompt)
    with pytest.raises(UserError):
        build_engine(description)
