"""Training runs its real steps, repeats itself, and leaves a record; labels follow the facts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captioner.llava_scenes.build import build_model, build_processor
from captioner.llava_scenes.examples import ABSENT, label, make_examples
from captioner.llava_scenes.train import encode_texts, main, one_cycle, train_tower
from data.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES, sample_scene

SMALL = [
    *("--tower-scenes", "40", "--tower-steps", "2", "--batch", "8"),
    *("--teller-scenes", "30", "--teller-steps", "2"),
]


def test_going_on_from_the_tower_gives_the_same_weights_and_a_record(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "one"), *SMALL])
    main(["--out", str(tmp_path / "two"), *SMALL, "--tower", str(tmp_path / "one-tower")])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    record = json.loads((tmp_path / "one" / "training.json").read_text())
    assert record["settings"]["tower_scenes"] == 40
    assert "--teller-steps 2" in record["command"]
    assert (tmp_path / "one" / "model.safetensors").stat().st_size < 10_000_000


def test_tower_learns_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    examples = make_examples(32, split="captioner_train", seed=0, processes=1)
    model = build_model(build_processor())
    train_tower(model, examples, steps=12, batch=16, seed=0)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert events[-1]["loss"] < 0.8 * events[0]["loss"]


def test_labels_follow_the_facts() -> None:
    scene = sample_scene(0, "captioner_train", 3)
    labels = label(scene)
    assert labels[:, 0].sum() == len(scene.things)
    for thing in scene.things:
        classes = (SHAPES, COLOURS, SIZES, TEXTURES)
        wanted = [thing.shape, thing.colour, thing.size, thing.texture]
        assert [
            names[i] for names, i in zip(classes, labels[thing.place, 1:], strict=True)
        ] == wanted
    empty = labels[:, 0] == 0
    assert (labels[empty, 1:] == ABSENT).all()


def test_answers_alone_are_learnt() -> None:
    processor = build_processor()
    examples = make_examples(3, split="captioner_train", seed=1, processes=1)
    ids, labels = encode_texts(processor, examples.texts)
    for row, text in enumerate(examples.texts):
        answer = labels[row][labels[row] != ABSENT]
        assert processor.tokenizer.decode(answer, skip_special_tokens=True).strip() == text
        assert answer[-1] == processor.tokenizer.eos_token_id
    assert (ids == processor.tokenizer.convert_tokens_to_ids("<image>")).sum(1).tolist() == [64] * 3


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [one_cycle(step, 100) for step in range(100)]
    assert rates[0] < rates[1] < rates[2] == max(rates)
    assert rates[-1] < 0.05
