"""Models of others beside our own: equal to what open_clip computes itself, in three formats."""

import contextlib
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vse
from data.errors import UserError
from data.sparse.captions import read_captions
from pipelines.cli import run
from tests.pipelines.evaluated import read_ways, write_trained
from tests.vse.model.backbones.clips import MODELS, register
from vse.evaluation.comparison import make_tables, write_latex, write_markdown

# Unlike the pictures' own shape, and with values of its own: what is not heeded changes the result.
PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bilinear"}


# CoCa as it is released: its image tower gives tokens beside the embedding.
COCA = {**MODELS["d2s-coca"]["vision_cfg"], "output_tokens": True}
KNOWN = {"d2s-vit": MODELS["d2s-vit"], "encoder-coca": {**MODELS["d2s-coca"], "vision_cfg": COCA}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a run, wide pictures, and models of open_clip with random weights."""
    folder = tmp_path_factory.mktemp("models")
    with contextlib.chdir(folder):
        write_trained(folder)
        for number, path in enumerate(sorted(Path("world/test").iterdir())):
            wide = Image.open(path).resize((40 + number, 24))
            wide.save(path)
        register(folder, **KNOWN)
        for name in KNOWN:
            write_clip(name, Path("clips") / name)
        yield folder


def write_clip(name: str, folder: Path) -> torch.nn.Module:
    """As open_clip saves for the Hub, without its pickle."""
    torch.manual_seed(7)
    model: torch.nn.Module = open_clip.create_model(name)
    folder.mkdir(parents=True)
    about = {"model_cfg": KNOWN[name], "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return model


def evaluate_naively(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images, captions): 0-based ranks of the test split by open_clip alone, pair by pair."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    source = [
        i for i in read_captions(Path("world/dataset_world.json")).images if i.split == "test"
    ]
    with torch.no_grad():
        images = [
            model.encode_image(transform(Image.open(f"world/{i.file_name}"))[None], normalize=True)
            for i in source
        ]
        texts = [
            [model.encode_text(tokenizer([text]), normalize=True) for text in i.captions]
            for i in source
        ]
    scores = np.array(
        [[[float((x * y).sum()) for y in own] for own in texts] for x in images]
    )  # (image, image of the caption, caption)
    found_texts, found_images = [], []
    for k in range(len(source)):
        rivals = np.delete(scores[k], k, axis=0)
        found_texts.append((rivals >= scores[k, k].max()).sum())
        for c in range(scores.shape[2]):
            others = np.delete(scores[:, k, c], k)
            found_images.append((others >= scores[k, k, c]).sum())
    return np.array(found_texts), np.array(found_images)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_it_is_measured_as_open_clip_computes_it(
    name: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", "world", "--ranks", f"{name}.parquet", "--folds", "2", "--json"]
    assert run(["evaluate", "--model", f"open_clip:clips/{name}", *options]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "(as released, input 32 px, shortest, bilinear)" in said.err
    i2t, t2i = evaluate_naively(Path("clips") / name)
    ways = read_ways(Path(f"{name}.parquet"))
    # Distances of random towers are small: a rank may differ by what rounding decides.
    for way, ranks in (("i2t", i2t), ("t2i", t2i)):
        ours = np.array([row["rank"] for row in ways[way]])
        assert (ours == ranks).mean() > 0.9, (ours, ranks)
        for cut in (1, 5, 10):
            assert found[f"{way}_r{cut}"] == pytest.approx(100 * (ours < cut).mean(), abs=1e-3)
    assert (found["px"], found["max_tokens"], found["resize"]) == (32, 16, "shortest, bilinear")
    assert found["stage"] is found["picked_on"] is found["finished"] is None
    assert (found["dataset"], found["images"], found["captions"]) == ("world", 8, 24)
    assert found["folds"]["images"] == [4, 4]
    # Beside nothing of the model's: it may be anybody's.
    home = Path(f"evaluations/open_clip-clips-{name}")
    assert json.loads((home / "eval-test.json").read_text()) == found


def test_the_embeddings_are_open_clips(trained: Path) -> None:
    from vse.embedders.open_clip import load_open_clip_encoder

    folder = Path("clips/d2s-vit")
    paths = sorted(Path("world/test").iterdir())
    texts = ["a red square", "a very long text " * 9, "CAPITALS &amp; marks"]
    encoder = load_open_clip_encoder(f"open_clip:{folder}")
    images, broken = encoder.embed_files([*paths, folder], report=lambda done, total: None)
    assert list(broken) == [len(paths)] and "Is a directory" in broken[len(paths)]
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(path)) for path in paths])
        expected = model.eval().encode_image(pixels, normalize=True).numpy()
        ids = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
        said = model.encode_text(ids, normalize=True).numpy()
    np.testing.assert_allclose(images[:-1], expected, rtol=1e-5, atol=1e-6)
    found = encoder.embed_captions(texts, report=lambda done, total: None)
    np.testing.assert_allclose(found, said, rtol=1e-5, atol=1e-6)


def test_by_name_and_file_the_weights_decide(trained: Path, tmp_path: Path) -> None:
    from vse.embedders.open_clip import load_open_clip_encoder

    file = Path("clips/d2s-vit/open_clip_model.safetensors").absolute()
    encoder = load_open_clip_encoder(f"open_clip:d2s-vit/{file}")
    other = load_open_clip_encoder("open_clip:clips/d2s-vit")
    pair = [p.embed_captions(["a red square"], report=lambda d, t: None) for p in (encoder, other)]
    np.testing.assert_array_equal(*pair)
    assert encoder.describe()["resize"] == "shortest, bicubic"  # no folder says otherwise
    assert encoder.describe()["weights_sha256"] == other.describe()["weights_sha256"]
    assert encoder.describe()["fingerprint"] != other.describe()["fingerprint"]


def test_text_positions_of_another_number_are_refused(trained: Path, tmp_path: Path) -> None:
    from vse.embedders.open_clip import load_open_clip_encoder

    weights = load_file("clips/d2s-vit/open_clip_model.safetensors")
    weights["positional_embedding"] = torch.randn(40, weights["positional_embedding"].shape[1])
    save_file(weights, tmp_path / "longer.safetensors")
    with pytest.raises(UserError, match="40 text positions"):
        load_open_clip_encoder(f"open_clip:d2s-vit/{tmp_path / 'longer.safetensors'}")


def test_a_tag_of_open_clip_brings_its_own_settings(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights from the Hub's cache, read as the tag says: activation, resizing, normalisation."""
    tag = {"hf_hub": "some/clip/", "quick_gelu": True, "resize_mode": "squash", "mean": (0.5,) * 3}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "d2s-vit", {"ours": tag})
    snapshot = tmp_path / "models--some--clip/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy("clips/d2s-vit/open_clip_model.safetensors", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    from vse.embedders.open_clip import load_open_clip_encoder

    encoder = load_open_clip_encoder("open_clip:d2s-vit/ours")
    assert encoder.describe()["resize"] == "squash, bicubic"
    model, _, transform = open_clip.create_model_and_transforms(
        "d2s-vit", pretrained="ours", force_quick_gelu=True
    )
    paths = sorted(Path("world/test").iterdir())
    images, _ = encoder.embed_files(paths, report=lambda done, total: None)
    texts = encoder.embed_captions(["a red square"], report=lambda done, total: None)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(path)) for path in paths])
        expected = model.eval().encode_image(pixels, normalize=True).numpy()
        said = model.encode_text(open_clip.get_tokenizer("d2s-vit")(["a red square"]), True)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(texts, said.numpy(), rtol=1e-5, atol=1e-6)


def test_a_table_of_models_is_one_command(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vse.load("runs/stage2").save_pretrained("shared")
    names = ["runs/stage2", "open_clip:clips/d2s-vit", "shared"]
    models = [word for name in names for word in ("--model", name)]
    assert run(["evaluate", *models, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "would write runs/stage2/eval-test.json, evaluations/" in said.out
    assert not Path("shared/eval-test.json").exists()

    assert run(["evaluate", *models, "--out", "all.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(Path("all.json").read_text())
    assert [one["model"] for one in found["models"]] == names
    # The published model is the run's, and both are measured on the run's data.
    mine, _, same = found["models"]
    assert {**same, "model": mine["model"]} | {
        k: mine[k] for k in ("finished", "step", "best_step", "images_trained_on")
    } == mine
    assert not Path("shared/eval-test.json").exists()

    assert run(["evaluate", *models, "--folds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "world, test: 8 images, 24 captions"
    rows = [tuple(line.split()[:3]) for line in lines]
    assert ("runs/stage2", "16", "px") in rows
    assert ("open_clip:clips/d2s-vit", "32", "px") in rows
    assert "world, test: mean ± deviation of 2 folds of 4 images" in lines
    for home in ("runs/stage2", "evaluations/open_clip-clips-d2s-vit", "shared"):
        assert json.loads(Path(home, "eval-test.json").read_text())["folds"]["count"] == 2


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_other_formats(form: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--model", "runs/stage2", "--model", "open_clip:clips/d2s-vit"]
    assert run(["evaluate", *models, "--format", form, "--out", "x.json"]) == 0
    said = capsys.readouterr().out
    for one in json.loads(Path("x.json").read_text())["models"]:
        six = [f"{one[f'{way}_r{cut}']:.1f}" for way in ("i2t", "t2i") for cut in (1, 5, 10)]
        cells = [f"{one['px']} px", *six, f"{one['rsum']:.1f}"]
        bar = " | " if form == "markdown" else " & "
        assert bar.join(cells) in said
    name = "open_clip:clips/d2s-vit" if form == "markdown" else r"open\_clip:clips/d2s-vit"
    assert f"{name} {'|' if form == 'markdown' else '&'} 32 px" in said


HOSTILE = r"[9cm]*a|b_c`<img src=x>\end{tabular}%$&#{}~^*[x](y)--WWW.x" + "\n\u202e"


def test_names_are_text_in_every_format() -> None:
    result = {"model": HOSTILE, "dataset": HOSTILE, "split": "test", "px": 16, "images": 8}
    result |= {"captions": 24, "rsum": 1.0, "folds": None, "eccv_caption": None, "cxc": None}
    result |= {f"{way}_r{cut}": 1.0 for way in ("i2t", "t2i") for cut in (1, 5, 10)}
    tables = make_tables([result])
    title, _, head, _, row = write_markdown(tables).splitlines()
    for line in (title, row):
        assert "\\|b" in line and "&lt;img src=x&gt;" in line and "\u202e" not in line
        assert "\\[x\\](y)" in line and "\\`" in line and "WWW&#46;x" in line
    cells = [part for part in row.replace("\\|", "").split("|")]
    assert len(cells) == len(head.split("|")) == 11
    latex = write_latex(tables)
    assert (
        latex.count("\\end{tabular}") == 1 and latex.count(r"\textbackslash{}end\{tabular\}") == 2
    )
    # Behind the end of a row [9cm] would be a gap, and so would a star.
    assert re.findall(r"^[\[*].*", latex, re.MULTILINE) == [] and "--" not in latex
    for mark in ("\\%", "\\$", "\\&", "\\#", "\\{\\}", r"\textasciitilde{}", r"\textasciicircum{}"):
        assert latex.count(mark) == 2
    check_latex(latex)


def check_latex(text: str) -> None:
    """Braces and environments close, cells are as many as columns, nothing special is bare."""
    bare = text.replace("\\\\", "").replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert text.count("\\begin{") == text.count("\n\\end{")
    columns = text.partition("\\begin{tabular}{")[2].partition("}")[0]
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {row.replace(r"\&", "").count("&") + 1 for row in rows} == {len(columns)}


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_is_refused_and_never_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("clips/pickled")
    folder.mkdir()
    config = Path("clips/d2s-vit/open_clip_config.json").read_text()
    (folder / "open_clip_config.json").write_text(config)
    for name in ("open_clip_pytorch_model.bin", "own.pt"):
        (folder / name).write_bytes(pickle.dumps(_Trap()))
    for name in (str(folder), f"d2s-vit/{folder}/own.pt"):
        assert run(["evaluate", "--model", f"open_clip:{name}", "--images", "world"]) == 1
        said = capsys.readouterr().err
        assert "reading a pickle can run code, so it is not read" in said and said.count("\n") == 1
    # open_clip itself would prefer this pickle to these safetensors.
    weights = Path("clips/d2s-vit/open_clip_model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights)
    assert run(["evaluate", "--model", f"open_clip:{folder}", "--images", "world"]) == 0
    assert not Path("sprung").exists()


def test_what_cannot_be_measured_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path("clips/damaged")
    damaged.mkdir()
    (damaged / "open_clip_config.json").write_text('{"model_cfg": {}}')
    (damaged / "open_clip_model.safetensors").write_bytes(b"x" * 20)
    wrong: dict[tuple[str, ...], str] = {
        ("open_clip:d2s-vit",): "does not specify weights: d2s-vit has none",
        ("open_clip:ViT-B-33/openai",): "did you mean open_clip:ViT-B-32?",
        ("open_clip:ViT-B-32/openai",): "run `hf download timm/vit_base_patch32_clip_224.openai`",
        ("open_clip:hf-hub:some/model",): "run `hf download some/model`",
        ("open_clip:world",): "world is not an open_clip folder: it has no open_clip_config.json",
        ("open_clip:clips/damaged",): "open_clip_config.json does not describe a model",
        ("runs/stage2", "runs/none"): "runs/none contains no trained model",
    }
    for names, complaint in wrong.items():
        models = [word for name in names for word in ("--model", name)]
        assert run(["evaluate", *models, "--images", "world"]) == 1
        said = capsys.readouterr()
        assert complaint in said.err and said.err.count("\n") == 1 and not said.out, said.err
    # Those of others have no data of their own.
    assert run(["evaluate", "--model", "open_clip:clips/d2s-vit"]) == 1
    assert "use --images" in capsys.readouterr().err
    assert run(["evaluate", "--model", "runs/stage2", "--model", "runs/stage2/"]) == 2
    assert "two models would write runs/stage2/eval-test.json" in capsys.readouterr().err
    assert run(["evaluate", "--model", "a", "--model", "b", "--failures", "e.html"]) == 2
    assert "--ranks and --failures work with one model" in capsys.readouterr().err
    assert run(["evaluate", "--json", "--format", "latex"]) == 2
    assert "--json cannot be combined with --format latex" in capsys.readouterr().err


def test_what_is_measured_is_kept_when_the_next_model_fails(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken: Any = Path("clips/misfit")
    broken.mkdir()
    config = json.loads(Path("clips/d2s-vit/open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 24
    (broken / "open_clip_config.json").write_text(json.dumps(config))
    weights = Path("clips/d2s-vit/open_clip_model.safetensors").read_bytes()
    (broken / "open_clip_model.safetensors").write_bytes(weights)
    models = ["--model", "runs/stage2", "--model", f"open_clip:{broken}"]
    assert run(["evaluate", *models, "--out", "part.json"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be built from clips/misfit/open_clip_model.safetensors: Error(s)" in said
    kept = json.loads(Path("part.json").read_text())["models"]
    assert [one["model"] for one in kept] == ["runs/stage2"]
