"""Probes: what is in the inputs is found, what is not is not, and a run is read to its page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.scenes.folder import make_truth, write_scenes
from pipelines.experiments import probes
from pipelines.experiments.probes import FACTS, Captions, measure_bits, write_words
from tests.vse.world import write_recipe

SCENES = {"train": 200, "val": 40, "test": 80}


@pytest.fixture(scope="module")
def captions() -> Captions:
    truths = [make_truth(0, s, n, correlation=4.0) for s in SCENES for n in range(SCENES[s])]
    return Captions.of(truths)


def test_bits_are_those_that_the_inputs_hold() -> None:
    draw = np.random.default_rng(0)
    answers, split = draw.integers(0, 4, 3000), np.repeat([0, 1, 2], 1000)
    noise = draw.normal(size=(3000, 8)).astype(np.float32)
    told = np.concatenate((noise, np.eye(4)[answers]), axis=1)
    half = np.concatenate((noise, np.eye(2)[answers // 2]), axis=1)
    assert measure_bits(told, answers, split) == pytest.approx(2.0, abs=0.1)
    assert measure_bits(half, answers, split) == pytest.approx(1.0, abs=0.1)
    assert measure_bits(noise, answers, split) == pytest.approx(0.0, abs=0.05)
    # What a caption tells is not asked for.
    hidden = np.where(np.arange(3000) % 2, answers, -1)
    noise[::2] = 1e6
    assert measure_bits(noise, hidden, split) == pytest.approx(0.0, abs=0.05)


def test_only_what_a_caption_leaves_out_is_asked_for(captions: Captions) -> None:
    told = [one for truth in captions.truths for one in truth.told]
    found = {fact.name: captions.find(fact) for fact in FACTS}
    for one, ground, texture, red in zip(
        told,
        found["ground"],
        found["texture of the first thing"],
        found["something red"],
        strict=True,
    ):
        assert (ground == -1) == (one.ground is not None)
        assert one.mentions[0].texture is None or texture == -1
        assert (red == -1) == any(mention.colour == "red" for mention in one.mentions)


def test_words_tell_more_where_the_world_is_correlated(captions: Captions) -> None:
    texture = next(fact for fact in FACTS if "texture" in fact.name)
    plain = Captions.of([make_truth(0, s, n) for s in SCENES for n in range(SCENES[s])])
    bits = [
        measure_bits(write_words(some.texts), some.find(texture), some.split)
        for some in (captions, plain)
    ]
    assert bits[0] > 0.15 > 0.08 > bits[1]


def test_a_run_from_start_to_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), counts={"train": 24, "val": 6, "test": 8}, seed=0)
    write_recipe(Path("tiny.yaml"), text={"vocab_size": 200})
    words = ["train", "--stage", "sparse", "--images", "scenes", "--recipe", "tiny.yaml"]
    words += ["--steps", "2", "--out", "run", "--set", "decoder.in_sparse=true"]
    subprocess.run([sys.executable, "-m", "pipelines.cli", *words], check=True)
    words = [
        "probes",
        str(tmp_path / "run"),
        "--scenes",
        str(tmp_path / "scenes"),
        "--docs",
        "docs",
    ]
    monkeypatch.setattr(sys, "argv", words)
    probes.main()
    text = Path("docs/probes.json").read_text()
    assert str(tmp_path) not in text + Path("docs/probes.md").read_text()
    assert "probes run --scenes scenes --docs docs" in text
    rows = json.loads(text)["rows"]
    assert [row["reads"] for row in rows] == ["words", "t", "t + r", "v"]
    assert "texture of the first thing" not in rows[-1]["bits"]
    assert Path("docs/probes.md").read_text().count("| run |") == 3
    capfd.readouterr()


def test_an_interruption_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probes, "run_probes", interrupt)
    monkeypatch.setattr(sys, "argv", ["probes", "run", "--scenes", "scenes"])
    with pytest.raises(SystemExit) as caught:
        probes.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines() == ["probes: interrupted"]
