"""What a dry run finds out: texts that are cut, weights and disk that are missing."""

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from tokenizers.processors import TemplateProcessing

from data.errors import UserError
from tests.data.word_tokenizer import make_sentencepiece
from tests.vse.runs import make, run
from tests.vse.world import dense_of, write_dense, write_recipe
from vse.model.tokenizer.tokenizer import build, wrap
from vse.samples.corpus import Sample
from vse.training.forecast import run as forecasts
from vse.training.forecast.run import RunForecast, draw_lengths, forecast_run, measure_texts
from vse.training.forecast.step import forecast_step


def forecast(stage: str = "1", **sections: Any) -> RunForecast:
    write_recipe(Path("tiny.yaml"), **sections)
    spec = make(stage, out=Path("runs/a"))
    return forecast_run(spec.recipe, stage=stage, corpus=spec.corpus, out=spec.out)


def test_a_run_that_can_begin(project: Path) -> None:
    found = forecast()
    assert found.problems == () and found.step is not None
    assert (found.length.steps_per_epoch, found.length.steps) == (3, 12)
    assert [texts.kind for texts in found.texts] == ["dense"]
    assert not Path("runs").exists()
    assert [t.kind for t in forecast("sparse").texts] == ["sparse"]


def test_texts_beyond_the_limit_are_counted() -> None:
    texts = ["one two", "one two three four five six", "one"]
    tokenizer = build(texts, vocab_size=200)
    samples = [Sample(f"{n}", Path(f"{n}"), (), ((text,),)) for n, text in enumerate(texts)]
    found = measure_texts(samples, "dense", tokenizer=tokenizer, limit=5)
    assert found.lengths == (4, 8, 3) and found.cut == pytest.approx(1 / 3) and not found.guessed
    guess = measure_texts(samples, "dense", tokenizer=None, limit=5)
    assert guess.lengths == (5, 10, 3) and guess.guessed


def test_a_step_that_draws_sentences_needs_less(project: Path) -> None:
    long = forecast().step
    short = forecast(data={"sentences": 1}, text={"max_tokens": 6}).step
    assert long is not None and short is not None
    assert short.memory["activations"] < long.memory["activations"]


def test_a_joint_step_reads_captions_and_a_few_sentences_of_each_dense_text(project: Path) -> None:
    told = {name: f"{text} It is small." for name, text in dense_of(Path("world")).items()}
    shutil.rmtree("dense")
    write_dense(Path("dense/world"), Path("world"), told)

    def lengths(**data: Any) -> tuple[list[int], list[int]]:
        with mock.patch.object(forecasts, "forecast_step", wraps=forecast_step) as step:
            forecast("joint", data=data)
        return step.call_args.kwargs["lengths"], step.call_args.kwargs["dense"]

    captions, dense = lengths(texts_per_step=2)
    assert (len(captions), len(dense)) == (32, 16) and max(captions) < min(dense)
    assert sum(lengths(sentences=1)[1]) < sum(dense)


def test_sentences_that_are_texts_of_their_own_are_counted_one_by_one(project: Path) -> None:
    told = {name: f"{text} It is small." for name, text in dense_of(Path("world")).items()}
    shutil.rmtree("dense")
    write_dense(Path("dense/world"), Path("world"), told)
    whole, split = forecast(), forecast(data={"split_dense": True})
    assert split.texts[0].total == 2 * whole.texts[0].total
    assert max(split.texts[0].lengths) < max(whole.texts[0].lengths)


def test_sentences_are_drawn_as_in_a_step() -> None:
    text = "one thing. two things. three things."
    tokenizer = build([text], vocab_size=200)
    samples = [Sample("0", Path("0"), (), ((text,),))]
    assert draw_lengths(samples, tokenizer=tokenizer, most=1, limit=99) == [5]
    tokenizer.backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert draw_lengths(samples, tokenizer=tokenizer, most=1, limit=99) == [3]


def test_weights_that_are_not_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "google/vit-base-patch16-224-in21k"
    monkeypatch.setattr(forecasts.constants, "HF_HUB_OFFLINE", True)
    image = {"config": None, "name": name, "px": 32}
    found = forecast(image=image)
    assert [f"`hf download {name}`" in problem for problem in found.problems] == [True]
    assert found.step is not None and found.step.weights["image"] > 80e6
    text = {"config": None, "name": "bert-base-uncased"}
    found = forecast(text=text)
    # The lengths are guessed, the rest is told all the same.
    assert "tokenizer of bert-base-uncased" in found.problems[0] and found.texts[0].guessed
    assert found.step is not None and found.step.weights["text"] > 100e6
    monkeypatch.setattr(forecasts.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(forecasts, "ask_server", lambda url, *, timeout: "")
    found = forecast(image=image)
    assert found.problems == () and f"{name} will be downloaded" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("open_clip:ViT-B-16/openai", "timm/vit_base_patch16_clip_224.openai"),
        ("timm:vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"),
        ("llava:llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
    ],
)
def test_weights_of_other_libraries_that_are_not_here(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, repo: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(forecasts.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(forecasts.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    image = {"config": None, "name": name, "px": 224}
    found = forecast(image=image)
    assert any("HF_HUB_OFFLINE" in p and f"`hf download {repo}`" in p for p in found.problems)
    here = tmp_path / "cache" / f"models--{repo.replace('/', '--')}" / "snapshots/1"
    here.mkdir(parents=True)
    (here / "model.safetensors").touch()
    assert not any("HF_HUB_OFFLINE" in problem for problem in forecast(image=image).problems)


@pytest.fixture
def broken_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The peers that have connected to a Hub which hangs up on each of them."""
    peers: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                connection, peer = listener.accept()
                peers.append(str(peer))
                connection.close()
                if stop:
                    return

        stop: list[bool] = []
        thread = threading.Thread(target=hang_up)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        constants = forecasts.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield peers
        stop.append(True)
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def test_a_hub_that_does_not_answer_is_asked_once(project: Path, broken_hub: list[str]) -> None:
    found = forecast(
        image={"config": None, "name": "google/vit-base-patch16-224-in21k", "px": 32},
        text={"config": None, "name": "bert-base-uncased"},
    )
    assert len(broken_hub) == 1
    assert "tokenizer of bert-base-uncased" in found.problems[0]
    assert all("the Hub cannot be reached" in problem for problem in found.problems[1:])
    assert len(found.problems) == 3 and found.step is not None
    assert forecasts.constants.HF_HUB_OFFLINE is False
    assert forecast().problems == () and len(broken_hub) == 1


def test_a_tokenizer_that_cannot_tell_words_apart(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = wrap(make_sentencepiece(splits=False, spaces=False), where="here", pad_id=0)
    for module in ("forecast.run", "run"):
        monkeypatch.setattr(f"vse.training.{module}.choose_tokenizer", lambda *a, **k: whole)
    [problem] = forecast(data={"word_mask": 0.2}).problems
    assert "--set data.word_mask=0" in problem
    with pytest.raises(UserError, match="data.word_mask=0"):
        run(make("1", out=Path("runs/a")))
    assert forecast(data={"word_mask": 0.0}).problems == ()


def test_a_disk_that_is_too_full(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(forecasts.shutil, "disk_usage", lambda path: usage)
    [problem] = forecast().problems
    assert "GiB will be written" in problem


def test_the_disk_that_a_run_takes(project: Path) -> None:
    forecasted = forecast().disk
    run(make("1", out=Path("runs/a")))
    written = sum(path.stat().st_size for path in Path("runs").rglob("*") if path.is_file())
    # Two states lie there for a moment, and JSON and array headers weigh much in a tiny run.
    assert 0.5 * written < forecasted < 2.5 * written


def test_cached_tokens_take_disk(project: Path) -> None:
    settings = {"image": {"freeze": "all"}, "text": {"freeze": "all"}}
    still = {"crop_min": 1.0, "flip": 0.0, "word_mask": 0.0}
    without = forecast(**settings, data=still).disk
    more = forecast(**settings, data={**still, "cache_tokens": True}).disk - without
    flat = [f"{part}.freeze=all" for part in settings]
    flat += [f"data.{key}={value}" for key, value in {**still, "cache_tokens": "true"}.items()]
    run(make("1", out=Path("runs/a"), overrides=tuple(flat), steps=2))
    written = sum(path.stat().st_size for path in Path("runs/cache").glob("*-tokens-*"))
    assert 0.5 * written < more < 2 * written


def test_a_gpu_that_is_too_small(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "device_memory", lambda: ("Tiny GPU", 1000))
    found = forecast()
    assert "more memory than the Tiny GPU has" in found.notes[0] and found.problems == ()
