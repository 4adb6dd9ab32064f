"""The recipes of the published rows: what they change, and that their heads tell the truth."""

import re
from functools import cache

import pytest

from data.settings.differences import list_differences
from vse.recipes.files import find_recipe, read_recipe, resolve
from vse.training.forecast.step import build_on_meta, count_step_flops, forecast_step, pick_lengths

# I2T R@1, T2I R@1, rSum.
ROWS = {
    "f30k-vit-384": {"F30K 1K": (82.8, 68.5, 531.9)},
    "f30k-vit-480": {"F30K 1K": (84.1, 70.3, 537.9)},
    "f30k-swin-384": {"F30K 1K": (87.2, 73.0, 548.7)},
    "f30k-swin-480": {"F30K 1K": (87.8, 75.7, 553.2)},
    "coco-vit-384": {"COCO 1K": (80.1, 68.1, 533.7), "COCO 5K": (60.1, 46.3, 445.6)},
    "coco-vit-480": {"COCO 1K": (80.8, 69.0, 535.8), "COCO 5K": (60.6, 46.8, 449.1)},
    "coco-swin-384": {"COCO 1K": (82.4, 70.3, 540.7), "COCO 5K": (63.9, 49.3, 460.4)},
    "coco-swin-480": {"COCO 1K": (83.8, 71.9, 544.7), "COCO 5K": (65.2, 51.3, 467.7)},
}
ITEMS = {"f30k": (29_000, 145_000), "coco": (113_287, 566_435)}
LENGTHS = {"1": range(90, 171), "2": range(10, 25)}  # tokens; the heads say so


class Bert:
    vocab_size = 30522
    pad_id = 0


def head(name: str) -> str:
    """The comment that the recipe begins with, as one line."""
    lines = find_recipe(name).read_text().splitlines()
    comment = [line for line in lines if line.startswith("#")]
    assert lines[: len(comment)] == comment
    return re.sub(r"\s+", " ", " ".join(line.lstrip("# ") for line in comment))


@cache
def count_flops(image: str, px: int) -> list[float]:
    """FLOP of a step of 128 pairs in stage 1 and in stage 2, from a step of 8."""
    settings = (f"image.name={image}", f"image.px={px}")
    recipe = resolve(read_recipe("paper"), stage="2", overrides=settings)
    model = build_on_meta(recipe, stage="2", vocabulary=Bert())
    second = count_step_flops(model, recipe, pick_lengths(LENGTHS["2"], 8))
    model.decoder = None
    first = count_step_flops(model, recipe, pick_lengths(LENGTHS["1"], 8))
    return [16.0 * first, 16.0 * second]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_the_papers_recipe_with_other_towers(name: str) -> None:
    data, tower, px = name.split("-")
    paper = resolve(read_recipe("paper"), stage="2").to_dict()
    found = resolve(read_recipe(name), stage="2").to_dict()
    changed = {text.split(":")[0] for text in list_differences(paper, found)}
    assert changed <= {"image.name", "image.px"}
    assert found["image"]["px"] == int(px) and f"/{tower}-base-patch" in found["image"]["name"]
    assert re.search(r"in2[12]k|vit-base-patch16-384", found["image"]["name"])
    assert data in ITEMS


@pytest.mark.parametrize("name", ROWS)
def test_the_head_tells_command_and_published_figures(name: str) -> None:
    text, published = head(name), read_recipe(name)["published"]
    px = name.rsplit("-")[-1]
    assert text.startswith(f"d2s reproduce {name} --images ")
    assert f"trained and tested at {px} px" in text and f"({px} px)" in published["row"]
    assert {"384": '"224"', "480": '"384"'}[px] in text
    assert set(published["figures"]) == set(ROWS[name])
    for protocol, (i2t, t2i, rsum) in ROWS[name].items():
        assert f"Published, {protocol}: I2T R@1 {i2t}, T2I R@1 {t2i}, rSum {rsum}." in text
        told = published["figures"][protocol]
        assert (told["i2t_r1"], told["t2i_r1"], told["rsum"]) == (i2t, t2i, rsum)
        assert told["of"] == ("folds" if protocol == "COCO 1K" else "split")
    assert text.count("not measured") == 2


@pytest.mark.parametrize("name", ROWS)
def test_the_estimated_time_is_what_is_computed(name: str) -> None:
    image = resolve(read_recipe(name), stage="2").image
    steps = [30 * (items // 128) for items in ITEMS[name.split("-")[0]]]
    assert image.name is not None
    flops = count_flops(image.name, image.px)
    total = sum(count * each for count, each in zip(steps, flops, strict=True))
    told = re.search(
        r"([\d,]+) steps of ([\d.]+) TFLOP in stage 1 and ([\d,]+) of ([\d.]+) in stage 2 are "
        r"([\d,]+) PFLOP, ([\d.]+) hours at 300 TFLOP/s .* brings ([\d,]+) images a second",
        head(name),
    )
    assert told is not None
    figures = [float(group.replace(",", "")) for group in told.groups()]
    assert figures[0:3:2] == steps
    # Eight texts are padded a little less than 128.
    assert figures[1:4:2] == pytest.approx([each / 1e12 for each in flops], rel=0.02)
    assert figures[4] == pytest.approx(total / 1e15, rel=0.02)
    assert figures[5] == pytest.approx(total / 300e12 / 3600, rel=0.05)
    assert figures[6] == pytest.approx(128 * 300e12 / flops[1], rel=0.02)


def test_the_estimated_memory_is_what_is_computed() -> None:
    told = re.search(
        r"(\d+) GiB on one GPU, (\d+) on each of two \(--gpus 2\), (\d+) on each of four, "
        r"(\d+) on one with --set image.checkpointing=true",
        head("f30k-vit-384"),
    )
    assert told is not None
    # Stage 1 reads the longer texts.
    recipe = resolve(read_recipe("f30k-vit-384"), stage="1")
    lengths = pick_lengths(LENGTHS["1"], 128)
    found = forecast_step(recipe, stage="1", lengths=lengths, vocabulary=Bert())
    assert float(told.group(1)) == pytest.approx(found.peak / 2**30, abs=0.51)
    halved = found.peak - found.memory["activations"] / 2 + found.memory["gradients"]
    assert float(told.group(2)) == pytest.approx(halved / 2**30, rel=0.04)
