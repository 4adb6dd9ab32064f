"""One configuration for the command line, Python, YAML and run.json."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner import caption
from captioner.settings.config import CaptionConfig, EngineConfig
from captioner.settings.placement import Placement
from captioner.settings.prepare import prepare_caption
from data.dense.run import read_run
from data.errors import UsageError, UserError
from pipelines import cli
from tests.captioner.images import write_images

YAML = """
source: {images: i, limit: 4}
engine: {model: any, engine: scripted}
text: {seed: 3, temperature: 0}
output: {shard_size: 2}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "i", 6)
    (tmp_path / "run.yaml").write_text(YAML)
    return tmp_path


def test_options_lie_over_set_and_set_over_the_file(here: Path) -> None:
    path = Path("run.yaml")
    config = CaptionConfig.read(
        path, overrides=["text.seed=5", "text.top_p=1"], options={"seed": 7}
    )
    assert (config.text.seed, config.text.top_p, config.text.temperature) == (7, 1.0, 0.0)
    assert (config.source.images, config.source.limit, config.output.shard_size) == ("i", 4, 2)
    assert CaptionConfig.of(**{"model": "any", "images": Path("i")}).source.images == "i"


def test_a_command_of_a_file_is_that_of_options(here: Path) -> None:
    assert cli.run(["caption", "--config", "run.yaml", "--out", "a"]) == 0
    words = "--model any --engine scripted --images i --limit 4 --seed 3 --temperature 0"
    assert cli.run(["caption", *words.split(), "--shard-size", "2", "--out", "b"]) == 0
    a, b = (read_run(here / name) for name in "ab")
    assert a["settings"] == b["settings"] and a["fingerprint"] == b["fingerprint"]
    # What a run recorded of itself asks for the same again.
    again = ["caption", "--config", "a/run.json", "--out", "c", "--set", "text.seed=4"]
    assert cli.run(again) == 0
    c = read_run(here / "c")
    assert c["settings"]["sampling"] == {**a["settings"]["sampling"], "seed": 4}
    assert caption(CaptionConfig.read(Path("run.yaml"), options={"out": Path("d")})).complete


def test_a_recorded_run_gives_its_settings_and_not_what_one_call_asked_for(here: Path) -> None:
    once = {"append": True, "retry_errors": True, "mix_versions": True, "redo": True}
    given = CaptionConfig.of(
        model="any",
        images="i",
        seed=3,
        shard_size=2,
        out=Path("a"),
        placement=Placement(1, 2),
        **once,
    )
    (here / "run.json").write_text(json.dumps({"config": given.to_dict()}))
    read = CaptionConfig.read(Path("run.json"), options={"out": Path("b")})
    usual = {name: False for name in once}
    assert read == replace(
        given, placement=Placement(), output=replace(given.output, out=Path("b"), **usual)
    )
    # A file of one's own means what it says.
    (here / "own.json").write_text(json.dumps(given.to_dict()))
    assert CaptionConfig.read(Path("own.json"), options={}) == given


def test_it_is_json_and_back() -> None:
    config = CaptionConfig.of(
        model="any", images="i", servers=["http://a"], out=Path("x"), placement=Placement(1, 2)
    )
    values = json.loads(json.dumps(config.to_dict()))
    assert CaptionConfig.read(options=values) == config


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--set", "engine.max_num_seq=4"], 1, "did you mean engine.max_num_seqs"),
        (["--set", "engine.engines=many"], 1, "engine.engines"),
        (["--set", "placement.cluster=slurm"], 1, "ray"),
        (["--set", "seed"], 1, "section.key=value"),
        (["--seed", "some"], 2, "--seed"),
        (["--prompt", "caf\udce9"], 1, "--prompt"),
        (["--model", "caf\udce9"], 1, "--model"),
        (["--seed", "-1"], 2, "--seed"),
        (["--set", "engine.max_num_seqs=4"], 2, "scripted has none"),
        (["--set", "text.prompt=' '"], 1, "--prompt is empty"),
        (["--set", "engine.engines=0"], 1, "--engines must be at least 1"),
        (["--set", "engine.gpu_memory=5"], 1, "--gpu-memory"),
        (["--set", "engine.memory_limit=0"], 1, "--memory-limit"),
        (["--set", "engine.dtype=int3"], 1, "float16"),
        (["--set", "pixels.aspect=round"], 1, "squash"),
        (["--set", "pixels.workers=0"], 1, "--workers"),
        (["--set", "server.server_window=-1"], 1, "--server-window"),
        (["--set", "output.shard_size=0"], 1, "--shard-size"),
        (["--set", "source.images=''"], 1, "--images is empty"),
    ],
)
def test_what_does_not_fit(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    assert cli.run(["caption", "--config", "run.yaml", "--out", "o", *words]) == code
    assert told in capsys.readouterr().err and not (here / "o").exists()


def test_a_model_and_images_are_needed(here: Path) -> None:
    with pytest.raises(UsageError, match="--model is missing"):
        CaptionConfig.of(images="i")
    with pytest.raises(UsageError, match="--images is missing"):
        CaptionConfig.of(model="any")
    with pytest.raises(UserError, match="no_such"):
        CaptionConfig.of(model="any", images="i", no_such=1)


def test_the_engine_gets_its_settings(here: Path) -> None:
    """As far as it is told without being started; tests of vLLM start it."""
    config = CaptionConfig.of(model="llava-scenes", images="i", max_num_seqs=7, prompt="What?")
    description = prepare_caption(config).choice.description
    assert (description["config"]["max_num_seqs"], description["prompt"]["text"]) == (7, "What?")
    free = replace(config, engine=EngineConfig("llava-scenes"))
    one, other = prepare_caption(config), prepare_caption(free)
    assert one.fingerprint == other.fingerprint, "it decides how fast, not what"


def test_what_decides_a_text_is_in_the_fingerprint(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_settings(**options: Any) -> dict[str, Any]:
        config = CaptionConfig.of(model="llava-scenes", images="i", **options)
        return prepare_caption(config).settings

    usual = read_settings()
    assert not {"system", "quantization", "batch_invariant"} & usual.keys()
    assert read_settings(system="vicuna") == {**usual, "system": "vicuna"}
    assert read_settings(quantization="fp8") == {**usual, "quantization": "fp8"}
    words = ["--model", "llava-scenes", "--images", "i", "--set", "engine.batch_invariant=true"]
    assert cli.run(["caption", *words]) == 2 and "GPU" in capsys.readouterr().err
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert read_settings() == {**usual, "batch_invariant": True}


def test_folders_that_are_no_utf8_are_read_but_not_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(b"caf\xe9")
    (here / "i").rename(here / odd)
    command = ["caption", "--model", "any", "--engine", "scripted", "--images", odd]
    # By default --out is named after the images, and Arrow opens no such path.
    assert cli.run(command) == cli.run([*command, "--out", odd]) == 1
    assert capsys.readouterr().err.count("--out") == 2 and not (here / "dense").exists()
    for _ in range(2):
        assert cli.run([*command, "--out", "out"]) == 0
    record = read_run(here / "out")
    assert record["config"]["source"]["images"] == odd and record["complete"]
