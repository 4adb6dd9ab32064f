"""`d2s publish model` without a Hub: what is in the tree, what the card says, what is refused."""

import contextlib
import json
import pickle
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import vse
from pipelines.cli import run as d2s
from tests.json_outputs import check_json
from tests.pipelines.hub.trained import write_runs
from vse.evaluation.results import read_results
from vse.recipes.files import read_recipe, resolve
from vse.sharing.card import Measured, _result_lines

GIVEN = ["--repo", "someone/model", "--license", "apache-2.0"]
RECALLS = [f"{way}_r{cut}" for way in ("i2t", "t2i") for cut in (1, 5, 10)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.chdir(folder):
        yield write_runs(folder)


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """The first run, for what changes it."""
    return Path(shutil.copytree("runs/seed0", tmp_path / "run"))


def publish(*options: object) -> int:
    return d2s(["publish", "model", *map(str, options)])


def read_figures(run: str) -> dict:
    return json.loads(Path(run, "eval-test.json").read_text())


def test_the_tree_is_all_that_others_need(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tree"
    assert publish("runs/seed0", *GIVEN, "--to-dir", out) == 0
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        *("README.md", "config.json", "model.safetensors", "preprocessing.json"),
        *("recipe-stage1.yaml", "recipe-stage2.yaml", "tokenizer/tokenizer.json"),
    }
    capsys.readouterr()
    for path in out.rglob("*.*"):
        assert str(runs).encode() not in path.read_bytes(), path
    mine, theirs = vse.load("runs/seed0"), vse.load(out)
    paths, texts = sorted(Path("world/test").iterdir()), ["a red square", "white on blue"]
    np.testing.assert_array_equal(mine.encode_image(paths), theirs.encode_image(paths))
    np.testing.assert_array_equal(mine.encode_text(texts), theirs.encode_text(texts))
    about = json.loads((out / "preprocessing.json").read_text())
    assert about["image"]["px"] == 16 and about["text"]["max_tokens"] == 64
    # The same state of things is the same tree, and a dry run lists it.
    assert publish("runs/seed0", *GIVEN, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    check_json("publish model", told, dry_run=True)
    listed = {one["path"]: one["size"] for one in told["files"]}
    assert listed == {name: (out / name).stat().st_size for name in files}
    assert list(listed)[-1] == "README.md"


def test_the_card_has_the_figures_of_every_data_set_and_split(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("world", tmp_path / "flowers")
    (tmp_path / "flowers/dataset_world.json").rename(tmp_path / "flowers/dataset_flowers.json")
    other = ["--images", str(tmp_path / "flowers"), "--out", str(copy / "eval-flowers.json")]
    others = [*other[:2], "--split", "val", "--out", str(copy / "eval-flowers-val.json")]
    for options in (["--split", "val"], other, others, ["--limit", "3"]):
        assert d2s(["evaluate", "--model", str(copy), *options]) == 0
    assert publish(copy, *GIVEN, "--dataset", "someone/dense", "--to-dir", tmp_path / "t") == 0
    card = ModelCard.load(tmp_path / "t/README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "d2s-vse")
    assert card.data.datasets == ["someone/dense"] and card.data.model_name == "model"
    wanted = {("world", "test"): "eval-test.json", ("world", "val"): "eval-val.json"}
    wanted["flowers", "test"] = "eval-flowers.json"
    wanted["flowers", "val"] = "eval-flowers-val.json"
    assert card.text.count("selected by their rSum") == 1  # not on flowers
    summary = json.loads((copy / "eval-val.json").read_text())
    for own, told in ((None, True), ("world", True), ("flowers", False)):
        lines = _result_lines([Measured(summary)], own=own)
        assert ("selected by their rSum" in "\n".join(lines)) == told
    told = {
        (e.dataset_name, e.dataset_split, e.dataset_config, e.task_type[:4], e.metric_type): e
        for e in card.data.eval_results
    }
    assert {key[:2] for key in told} == set(wanted)
    for (dataset, split), file in wanted.items():
        found = json.loads((copy / file).read_text())
        for key in RECALLS:
            task = {"i2t": "imag", "t2i": "text"}[key[:3]]
            entry = told[dataset, split, None, task, f"recall_at_{key[5:]}"]
            assert entry.metric_value == found[key]
            assert entry.dataset_args == {"input_px": 16, "images": found["images"]}
        assert told[dataset, split, None, "imag", "rsum"].metric_value == found["rsum"]
        assert f"{dataset}, {split}: 8 images, 24 captions" in card.text
    folds = read_figures("runs/seed0")["folds"]["mean"]
    entry = told["world", "test", "mean of 2 folds", "text", "recall_at_1"]
    assert entry.metric_value == folds["t2i_r1"]
    assert "16 x 16 px" in card.text and "48 train, 8 val, 8 test" in card.text


def test_seeds_give_mean_and_deviation(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    assert publish("runs/seed0", *GIVEN, "--seed-run", "runs/seed1", "--to-dir", out) == 0
    card = ModelCard.load(out / "README.md")
    pair = [read_figures(f"runs/seed{seed}") for seed in (0, 1)]
    entries = [e for e in card.data.eval_results if e.dataset_config is None]
    assert len(entries) == 7
    for entry in entries:
        way = {"imag": "i2t", "text": "t2i"}[entry.task_type[:4]]
        name = entry.metric_type
        key = "rsum" if name == "rsum" else f"{way}_r{name.rpartition('_')[2]}"
        values = [one[key] for one in pair]
        assert entry.metric_value == values[0]
        assert entry.metric_args["seeds"] == [0, 1]
        assert entry.metric_args["mean"] == pytest.approx(statistics.fmean(values), abs=1e-4)
        assert entry.metric_args["deviation"] == pytest.approx(statistics.stdev(values), abs=1e-4)
    total = [one["rsum"] for one in pair]
    shown = f"{statistics.fmean(total):.1f} ± {statistics.stdev(total):.1f}"
    row = next(line for line in card.text.splitlines() if "of seeds 0, 1" in line)
    assert row.endswith(f"| {shown} |")


def test_the_recipes_are_those_of_the_training(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    assert publish("runs/seed1", *GIVEN, "--to-dir", out) == 0
    for stage, run in (("1", "runs/stage1"), ("2", "runs/seed1")):
        given = resolve(read_recipe(str(out / f"recipe-stage{stage}.yaml")), stage=stage)
        config = json.loads(Path(run, "config.json").read_text())
        assert json.loads(json.dumps(given.to_dict())) == config["recipe"]
    text = (out / "README.md").read_text()
    for stage in "12":
        assert f"\nd2s train --stage {stage} --recipe recipe-stage{stage}.yaml --images" in text
    assert yaml.safe_load((out / "recipe-stage2.yaml").read_text())["optim"]["seed"] == 1


def test_a_model_of_several_texts_without_human_captions(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["data"] |= {"captions": None, "sparse_side": "no human captions: the text condensed"}
    config["recipe"]["data"] |= {"texts": ["dense", "condensed"], "sparse_text": "condensed"}
    config["fingerprint"]["dense"] = {"dense": "abc", "condensed": "def"}
    (copy / "config.json").write_text(json.dumps(config))
    assert publish(copy, *GIVEN, "--to-dir", tmp_path / "t") == 0
    card = (tmp_path / "t/README.md").read_text()
    assert "recipe-stage2.yaml --images IMAGES --dense DENSE --init runs/stage1\n" in card
    assert "| dense text | run dense abc, condensed def |" in card


def test_figures_of_other_weights_are_left_out(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("runs/seed1/model.safetensors", copy)
    old = json.loads((copy / "eval-test.json").read_text())
    del old["weights_sha256"]
    (copy / "eval-old.json").write_text(json.dumps(old))
    (copy / "eval-torn.json").write_text("{")
    assert publish(copy, *GIVEN, "--to-dir", tmp_path / "t") == 0
    said = capsys.readouterr().err
    for line in (
        "eval-test.json is left out: its figures belong to other weights than this",
        "eval-old.json is left out: it does not say which weights and data it belongs to",
        "eval-torn.json is left out: it cannot be read as JSON",
        "the card will have no results: measure them with `d2s evaluate --model",
    ):
        assert line in said
    card = ModelCard.load(tmp_path / "t/README.md")
    assert card.data.eval_results is None and "## Results" not in card.text


def test_figures_of_another_tokenizer_are_left_out_and_older_ones_stay(copy: Path) -> None:
    path = copy / "eval-test.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"fingerprint": "other"}))
    assert "tokenizer" in read_results(copy).notes[0]
    del summary["fingerprint"]
    path.write_text(json.dumps(summary))
    assert read_results(copy).found and not read_results(copy).notes


def test_figures_of_a_part_are_left_out_under_any_name(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads((copy / "eval-test.json").read_text())
    named = copy / "eval-some.json"
    assert d2s(["evaluate", "--model", str(copy), "--limit", "4", "--out", str(named)]) == 0
    (copy / "eval-test.json").unlink()
    results = read_results(copy)
    assert not results.found and "first 4 images" in results.notes[0]
    # Results of an earlier version do not say it.
    del whole["limit"]
    (copy / "eval-test.json").write_text(json.dumps(whole))
    assert read_results(copy).found[whole["dataset"], "test"] == whole


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_what_is_refused_says_what_to_do(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(complaint: str, *options: object, code: int = 1) -> None:
        assert publish(*options, "--dry-run") == code
        said = capsys.readouterr()
        assert complaint in said.err and said.err.count("d2s: error:") == 1 and not said.out

    refuse("--license is missing: specify the license", copy, *GIVEN[:2], code=2)
    refuse(
        "'Apache 2' is not the name of a license", copy, *GIVEN[:2], "--license", "Apache 2", code=2
    )
    refuse("contains no trained model", "world", *GIVEN)
    refuse("runs/none is not a folder", "runs/none", *GIVEN)
    seeds = [copy, *GIVEN, "--seed-run"]
    refuse("have the same seed (0)", *seeds, "runs/seed0")
    refuse("differs from", *seeds, "runs/stage1")
    other = Path(shutil.copytree("runs/seed1", tmp_path / "other"))
    (other / "eval-test.json").unlink()
    refuse("was not measured on the same images and captions of world, test", *seeds, other)
    config = json.loads((other / "config.json").read_text())
    config["recipe"]["loss"]["align"] = "triplet"
    (other / "config.json").write_text(json.dumps(config))
    refuse("by more than its seed (recipe.loss.align: infonce -> triplet)", *seeds, other)
    progress = json.loads((copy / "state/progress.json").read_text())
    (copy / "state/progress.json").write_text(json.dumps({**progress, "finished": False}))
    refuse("is not finished (step 2): run its `d2s train` command again", copy, *GIVEN)
    shutil.rmtree(copy / "state")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap()))
    refuse("has pickled weights (pytorch_model.bin) but no model.safetensors", copy, *GIVEN)
    assert not Path("sprung").exists()


def test_names_are_text_in_the_card(copy: Path, tmp_path: Path) -> None:
    hostile = "x|<script>y</script>{{ 7*7 }}\n---\nlicense: mit"
    figures = json.loads((copy / "eval-test.json").read_text())
    (copy / "eval-test.json").write_text(json.dumps({**figures, "dataset": hostile}))
    config = json.loads((copy / "config.json").read_text())
    config["data"]["dataset"] = hostile
    dense = Path(shutil.copytree(config["data"]["dense"], tmp_path / "secret/dense"))
    record = json.loads((dense / "run.json").read_text())
    record |= {"model": hostile, "settings": {"engine": "imported"}}
    (dense / "run.json").write_text(json.dumps(record))
    config["data"]["dense"] = str(dense)
    config["recipe"]["text"] |= {"name": "bert-base-uncased", "config": None}
    config["recipe"]["image"] |= {"name": str(tmp_path / "secret/vit"), "config": None}
    (copy / "config.json").write_text(json.dumps(config))
    assert publish(copy, *GIVEN, "--to-dir", tmp_path / "t") == 0
    card = ModelCard.load(tmp_path / "t/README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", ["bert-base-uncased"])
    assert str(tmp_path) not in card.content and "| image tower | vit |" in card.text
    assert {e.dataset_name for e in card.data.eval_results} == {hostile}
    assert "<script>" not in card.text and "x\\|&lt;script&gt;" in card.text
    assert f"mit, d2s import, run {config['fingerprint']['dense']} |" in card.text
    assert not [line for line in card.text.splitlines() if line.startswith(("---", "license"))]


def test_a_saved_model_is_published_with_a_note(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vse.load("runs/seed0").save_pretrained(tmp_path / "saved")
    assert publish(tmp_path / "saved", *GIVEN, "--to-dir", tmp_path / "t") == 0
    said = capsys.readouterr().err
    assert "is a saved model, not a training run" in said
    assert "the stage 1 that it started from is no longer here" in said
    assert (tmp_path / "t/recipe-stage2.yaml").is_file()
    card = (tmp_path / "t/README.md").read_text()
    assert "--captions CAPTIONS --dense DENSE --init STAGE1\n" in card
    # Written into itself it would lose its own README.
    before = {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*.*")}
    assert publish(tmp_path / "saved", *GIVEN, "--to-dir", tmp_path / "saved") == 1
    assert "which would be overwritten: use another folder for --to-dir" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*.*")} == before
