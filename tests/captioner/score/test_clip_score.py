"""CLIPScore against a plain computation, and which weights are taken and which refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from captioner.score.clip_model import ClipChoice, ClipEncoder, load_clip
from captioner.score.clip_score import ClipScore, ScoreTask, score_texts
from data.errors import UserError
from data.images import ImageError, Status
from tests.captioner.images import write_images
from tests.captioner.score.clip import CONFIG, write_clip

TEXTS = [
    "A red car stands by a tree. Two people look at it.",
    "A dog.",
    "Noise without end, and",
    "One. Two things are there! Are there three? No.",
    "A cat sits on a bench, and " + "a very " * 30 + "long road. A bird.",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(clip: tuple[Path, Path]) -> ClipEncoder:
    return load_clip(ClipChoice(str(clip[0].parent / "whole")), device="cpu")


def make_tasks(folder: Path, texts: list[str | None]) -> list[ScoreTask]:
    names = write_images(folder, len(texts), side=40)
    paths = [folder / name for name in names]
    return [ScoreTask(text, path.read_bytes) for text, path in zip(texts, paths, strict=True)]


def score(encoder: ClipEncoder, tasks: list[ScoreTask], batch_size: int = 2) -> list[ClipScore]:
    return list(score_texts(encoder, tasks, batch_size=batch_size, workers=2))


def compute_plainly(model: torch.nn.Module, path: Path, sentence: str) -> float:
    """2.5 * max(cos, 0) of one image and one sentence, nothing batched, nothing of ours."""
    transform = open_clip.image_transform(32, is_train=False)
    with torch.no_grad():
        image = model.encode_image(transform(Image.open(path).convert("RGB"))[None])[0]
        tokens = open_clip.SimpleTokenizer(context_length=24)([f"A photo depicts {sentence}"])
        text = model.encode_text(tokens)[0]
    cosine = (image * text).sum() / (image.square().sum() * text.square().sum()).sqrt()
    return 2.5 * max(float(cosine), 0.0)


def test_scores_are_those_of_a_plain_computation(
    tmp_path: Path, clip: tuple[Path, Path], encoder: ClipEncoder
) -> None:
    found = score(encoder, make_tasks(tmp_path, list(TEXTS)))
    model = open_clip.CLIP(**CONFIG).eval()
    model.load_state_dict(load_file(clip[1]))
    sentences = [
        ["A red car stands by a tree.", "Two people look at it."],
        ["A dog."],
        ["Noise without end, and"],
        ["One.", "Two things are there!", "Are there three?", "No."],
        ["A cat sits on a bench, and " + "a very " * 30 + "long road.", "A bird."],
    ]
    for number, (one, spoken) in enumerate(zip(found, sentences, strict=True)):
        path = tmp_path / f"{number:04d}.png"
        plain = [compute_plainly(model, path, sentence) for sentence in spoken]
        assert one.clipscore == pytest.approx(sum(plain) / len(plain), abs=1e-5)
        assert one.clipscore_min == pytest.approx(min(plain), abs=1e-5)
        assert one.worst_sentence == spoken[plain.index(min(plain))]
        assert one.sentences == len(spoken) and one.clip_error is None
    assert [one.cut_sentences for one in found] == [0, 0, 0, 0, 1]
    # The figures must be able to differ, or the above says nothing.
    assert len({round(one.clipscore or 0, 4) for one in found}) >= 3


def test_batches_do_not_matter_and_each_image_is_read_once(
    tmp_path: Path, encoder: ClipEncoder
) -> None:
    read: list[str] = []

    def remember(path: Path) -> bytes:
        read.append(path.name)
        return path.read_bytes()

    make_tasks(tmp_path, list(TEXTS))
    paths = [tmp_path / f"{number:04d}.png" for number in range(len(TEXTS))]
    tasks = [
        ScoreTask(text, partial(remember, path)) for text, path in zip(TEXTS, paths, strict=True)
    ]
    whole = score(encoder, tasks, batch_size=32)
    assert sorted(read) == [path.name for path in paths]
    for size in (1, 3):
        again = score(encoder, tasks, batch_size=size)
        values = [one.clipscore for one in again]
        assert values == pytest.approx([one.clipscore for one in whole], abs=1e-5)


def test_what_has_no_score(tmp_path: Path, encoder: ClipEncoder) -> None:
    def fail() -> bytes:
        raise ImageError(Status.DECODE_ERROR, "the file does not exist")

    def forbid() -> bytes:
        raise AssertionError("the image of an empty text need not be read")

    good = make_tasks(tmp_path, ["A dog."])
    broken = ScoreTask("A dog.", lambda: b"no image")
    missing = ScoreTask("A dog.", fail)
    tasks = [ScoreTask(None, forbid), broken, *good, ScoreTask(" \n", forbid), missing]
    found = score(encoder, tasks, batch_size=5)
    assert found[0] == found[3] == ClipScore()
    assert found[1] == ClipScore(clip_error="not an image in a known format: plain text")
    assert found[4] == ClipScore(clip_error="the file does not exist")
    assert found[2].clipscore is not None and found[2].clip_error is None
    assert score(encoder, [broken, missing]) == [found[1], found[4]]
    assert score(encoder, []) == []


def test_choices_are_named_as_everywhere(clip: tuple[Path, Path]) -> None:
    whole, weights = clip[0].parent / "whole", str(clip[1])
    assert ClipChoice.parse(f"open_clip:{whole}") == ClipChoice(str(whole))
    assert ClipChoice.parse(f"open_clip:ViT-B-32/{weights}") == ClipChoice("ViT-B-32", weights)
    assert ClipChoice.parse("open_clip:hf-hub:a/b") == ClipChoice("hf-hub:a/b")
    for name in ("ViT-B-32/openai", "open_clip:ViT-B-32", "open_clip:", "open_clip:/openai"):
        with pytest.raises(UserError, match="open_clip:ARCH/WEIGHTS"):
            ClipChoice.parse(name)


def test_wrong_choices_are_refused(
    tmp_path: Path, clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    pickled = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, pickled)
    (tmp_path / "folder").mkdir()
    shutil.copyfile(clip[0].parent / "whole/open_clip_config.json",
                    tmp_path / "folder/open_clip_config.json")  # fmt: skip
    shutil.copyfile(pickled, tmp_path / "folder/open_clip_pytorch_model.bin")
    (tmp_path / "none").mkdir()
    for name, content in (
        ("torn", "{"),
        ("other", json.dumps({"model_cfg": {**CONFIG, "embed_dim": 8}, "preprocess_cfg": {}})),
    ):
        shutil.copytree(clip[0].parent / "whole", tmp_path / name)
        (tmp_path / name / "open_clip_config.json").write_text(content)
    for name, message in (
        (f"ViT-B-32/{pickled}", "not a safetensors file"),
        (f"ViT-B-32/{tmp_path / 'gone.safetensors'}", "do not exist"),
        (str(tmp_path / "folder"), "has 0 safetensors files"),
        (str(tmp_path / "none"), "has no open_clip_config.json"),
        (f"no-such-model/{clip[1]}", "cannot be loaded"),
        (str(tmp_path / "torn"), "cannot be loaded"),
        (str(tmp_path / "other"), "cannot be loaded"),
        # The tests have no network, and nothing in the cache.
        ("ViT-B-32/openai", "Without a network"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_clip(ClipChoice.parse(f"open_clip:{name}"), device="cpu")
        assert "\n" not in str(caught.value)
