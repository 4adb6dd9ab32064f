"""Recipes: what is refused, in which order settings win, and what the shipped ones say."""

from pathlib import Path

import pytest

from data.errors import UserError
from data.settings.differences import list_differences
from tests.vse.world import TINY
from vse.recipes import STAGES
from vse.recipes.files import SHIPPED, locate_towers, read_recipe, resolve, shipped_recipes


def test_shipped_recipes_resolve_for_every_stage() -> None:
    assert {"paper", "released", "scenes"} <= set(shipped_recipes())
    for name in shipped_recipes():
        for stage in STAGES:
            assert resolve(read_recipe(name), stage=stage).width > 0


def test_paper_is_the_papers() -> None:
    recipe = resolve(read_recipe("paper"), stage="2")
    assert (recipe.image.px, recipe.width, recipe.image.token_drop) == (384, 512, 0.2)
    assert recipe.text.name == "bert-base-uncased" and recipe.text.dropout == 0.2
    decoder, loss, optim, data = recipe.decoder, recipe.loss, recipe.optim, recipe.data
    assert (decoder.tokens, decoder.depth, decoder.heads) == (100, 4, 4)
    assert (decoder.placement, decoder.pooling, decoder.residual) == ("surround", "mean", True)
    assert (loss.align, loss.margin, loss.align_reduction) == ("hinge", 0.2, "sum")
    assert (loss.distill, loss.distill_weight, loss.distill_reduction) == ("cosine", 1.0, "mean")
    assert (optim.lr, optim.backbone_lr, optim.weight_decay) == (2e-4, 2e-5, 1e-4)
    assert (optim.milestones, optim.gamma, optim.epochs) == ((9, 15, 20, 25), 0.3, 30)
    assert (optim.batch_size, optim.clip, optim.precision) == (128, 2.0, "auto")
    assert (data.items, data.word_mask, data.crop_min, data.flip) == ("captions", 0.2, 0.6, 0.5)


def test_the_two_recipes_are_read_side_by_side() -> None:
    """The same settings in the same order; where they differ, the numbers agree."""
    lines, order = {}, {}
    for name in ("paper", "released"):
        text = (SHIPPED / f"{name}.yaml").read_text()
        lines[name] = [line for line in text.splitlines() if not line.startswith("#")]
        order[name] = [line.split(":")[0] for line in lines[name]]
    assert order["paper"] == order["released"]
    differing = [
        (one, other)
        for one, other in zip(lines["paper"], lines["released"], strict=True)
        if one != other
    ]
    marks = [[line[line.index("[") :][:3] for line in pair] for pair in differing]
    assert marks == [[f"[{n}]"] * 2 for n in (7, 2, 1, 2, 3, 4, 6, 5, 5)]


def test_released_is_the_released_codes() -> None:
    paper, released = (resolve(read_recipe(n), stage="2").to_dict() for n in ("paper", "released"))
    assert list_differences(paper, released) == [
        "data.select_split: val -> test",
        "decoder.attend_padding: False -> True",
        "decoder.placement: surround -> postfix",
        "decoder.unit_at_test: False -> True",
        "image.antialias: True -> False",
        "optim.clip_scaled: False -> True",
        "optim.precision: auto -> fp16",
        "teacher.mode: cached -> online-train",
        "text.head_on_padding: False -> True",
    ]


def test_order_of_precedence() -> None:
    raw = {**TINY, "stages": {"2": {"optim": {"lr": 0.5, "clip": 7.0}}}}
    assert resolve(raw, stage="1").optim.lr == 3e-3
    assert resolve(raw, stage="2").optim.lr == 0.5
    found = resolve(raw, stage="2", overrides=["optim.lr=1e-4"], optim__steps=9)
    assert (found.optim.lr, found.optim.clip, found.optim.steps) == (1e-4, 7.0, 9)
    assert resolve(raw, stage="2", optim__steps=None).optim.steps == 12


def test_epochs_lift_the_steps_of_what_lies_below(tmp_path: Path) -> None:
    def count(*overrides: str, stage: str = "1") -> int | None:
        raw = read_recipe(str(tmp_path / "mine.yaml"))
        return resolve(raw, stage=stage, overrides=overrides).optim.steps

    below = tmp_path / "below.yaml"
    below.write_text("base: scenes\noptim: {epochs: 3, steps: 7}\nstages: {2: {optim: {steps: 8}}}")
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: below.yaml")
    assert count(stage="joint") == 7  # of the same layer, the steps
    assert count("optim.epochs=5") is count("optim={epochs: 5}") is None
    assert count("optim.epochs=5", "optim.steps=6") == 6
    assert resolve(read_recipe(str(mine)), stage="2", optim__epochs=5).optim.steps is None
    mine.write_text("base: below.yaml\noptim: {epochs: 5}")
    assert count(stage="joint") is None and count(stage="2") == 8
    mine.write_text("base: below.yaml\nstages: {joint: {optim: {epochs: 5}}}")
    assert count(stage="joint") is None and count(stage="2") == 8
    mine.write_text("base: scenes\nstages: {1: {optim: {epochs: 5}}}")  # there it is "1"
    assert count() is None
    mine.write_text("base: below.yaml\nstages: {2: {optim: {epochs: 5}}}")
    assert count(stage="joint") == 7 and count(stage="2") is None
    mine.write_text("base: paper\noptim: {epochs: 5}")
    assert "steps" not in read_recipe(str(mine))["optim"]  # hashes of recipes remain as they were


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "unknown setting optim.learning_rate"),
        ("optim.epoch=3", "did you mean optim.epochs"),
        ("optm.lr=3", "did you mean optim"),
        ("optim.lr=fast", "optim.lr is 'fast'; it must be of type float"),
        ("optim.batch_size=1.5", "must be of type int"),
        ("optim.batch_size=true", "must be of type int"),
        ("data.cache_images=1", "must be of type bool"),
        ("optim.milestones=[a]", "optim.milestones[0] is 'a'; it must be of type int"),
        ("optim.milestones=9", "must be a list"),
        ("optim.betas=[0.9]", "must be two numbers"),
        ("optim.ema=1", "must lie between 0 and 1"),
        ("loss.align=hinges", "must be one of hinge, infonce, siglip"),
        ("decoder.heads=3", "width 32 is not a multiple of 3 decoder.heads"),
        ("decoder={kind: cross_attention, cross_heads: 5}", "multiple of 5 decoder.cross_heads"),
        ("decoder.kind=cross", "must be one of blocks, cross_attention"),
        ("decoder.heads=0", "decoder.heads is 0; it must be positive"),
        ("width=0", "width is 0"),
        ("optim.lr=-1e-4", "optim.lr is -0.0001"),
        ("optim.lr=.nan", "optim.lr is nan"),
        ("optim.backbone_lr=.inf", "optim.backbone_lr is inf"),
        ("optim.clip=0", "optim.clip is 0.0"),
        ("optim.gamma=-0.3", "optim.gamma"),
        ("optim.weight_decay=-1", "optim.weight_decay"),
        ("optim.warmup_steps=-1", "optim.warmup_steps"),
        ("optim.milestones=[3, -1]", "optim.milestones is -1"),
        ("optim.seed=-1", "optim.seed"),
        ("optim.seed=202611151230", "optim.seed must be less than"),
        ("optim.batch_size=1", "optim.batch_size must be at least 2"),
        ("optim.betas=[0.9, .nan]", "optim.betas[1] is nan"),
        ("loss.temperature=-0.07", "loss.temperature"),
        ("loss.margin=-0.2", "loss.margin"),
        ("loss.distill_weight=-1", "loss.distill_weight"),
        ("data.flip=1.5", "data.flip is 1.5"),
        ("data.word_mask=.nan", "data.word_mask is nan"),
        ("data.workers=-1", "data.workers"),
        ("text.vocab_size=0", "text.vocab_size"),
        ("image.std=[0.5, 0.5, 0]", "image.std is 0.0"),
        ("image.mean=[0.5, .inf, 0.5]", "image.mean[1] is inf"),
        ("decoder.mlp_ratio=0", "decoder.mlp_ratio"),
        ("data.select_split=train", "must be one of val, test"),
        ("image.name=x", "image needs either name or config"),
        ("optim=3", "optim must be a mapping"),
        ("lr", "section.key=value"),
        ("data.crop_min=0", "data.crop_min must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=None) as caught:
        resolve(TINY, stage="1", overrides=[override])
    assert message in str(caught.value)


def test_numbers_with_an_exponent_are_numbers() -> None:
    assert resolve(TINY, stage="1", overrides=["optim.lr=2e-4"]).optim.lr == 2e-4


def test_a_missing_section_is_named() -> None:
    with pytest.raises(UserError, match="the recipe lacks image, text"):
        resolve({}, stage="1")


def test_unknown_stage_in_a_recipe() -> None:
    with pytest.raises(UserError, match="unknown stage '3'"):
        resolve({**TINY, "stages": {3: {}}}, stage="1")


def test_recipes_that_are_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe 'papr': give one of clip, coco-swin-384"):
        read_recipe("papr")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(UserError, match="is not YAML"):
        read_recipe(str(bad))
    bad.write_text("- a")
    with pytest.raises(UserError, match="must contain a mapping"):
        read_recipe(str(bad))


def test_a_recipe_changes_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "base: paper\nimage: {px: 480}\nstages: {2: {optim: {lr: 1}}}"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/other.yaml").write_text("base: ../mine.yaml\noptim: {epochs: 3}\n")
    paper = resolve(read_recipe("paper"), stage="2")
    found = resolve(read_recipe(str(tmp_path / "folder/other.yaml")), stage="2")
    assert (found.image.px, found.optim.epochs, found.optim.lr) == (480, 3, 1.0)
    assert found.image.name == paper.image.name and found.decoder == paper.decoder
    (tmp_path / "mine.yaml").write_text("base: folder/other.yaml")
    with pytest.raises(UserError, match=r"mine.yaml is its own base"):
        read_recipe(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("base: papr")
    with pytest.raises(UserError, match="no recipe 'papr'"):
        read_recipe(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("base: [paper]")
    with pytest.raises(UserError, match="it must name one recipe"):
        read_recipe(str(tmp_path / "mine.yaml"))


def test_local_backbones_get_full_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of a workflow run in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/vit").mkdir(parents=True)
    (tmp_path / "clip.pt").touch()
    raw = {"image": {"name": "models/vit"}, "text": {"name": "google-bert/bert-base-uncased"}}
    assert locate_towers(raw, ("width=64",)) == ("width=64", f'image.name="{tmp_path}/models/vit"')
    given = ("image.name=timm:models/vit", "text.name=open_clip:ViT-B-16/clip.pt")
    found = locate_towers(raw, given)
    recipe = resolve(raw, stage="1", overrides=found)
    assert recipe.image.name == f"timm:{tmp_path}/models/vit"
    assert recipe.text.name == f"open_clip:ViT-B-16/{tmp_path}/clip.pt"
    assert locate_towers(raw, found) == found
