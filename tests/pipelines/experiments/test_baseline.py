"""The commands of the demo: each names what it makes, so that it is made again if it is gone."""

from pipelines.experiments.baseline import (
    COMPARED,
    caption_scenes,
    evaluate_methods,
    make_scenes,
    train_methods,
)
from vse.runs.config import RUNS


def test_every_command_names_what_it_makes() -> None:
    chains = train_methods(steps=10, seed=0, threads=1)
    trained = {c.arguments[2]: c.makes for chain in chains for c in chain}
    assert trained == {stage: f"{run}/model.safetensors" for stage, run in RUNS.items()}
    measured = [command.makes for command in evaluate_methods()]
    assert measured == [f"runs/{method.runs[-1]}/eval-test.json" for method in COMPARED]
    scenes = make_scenes(train=1, val=1, test=1, seed=0)
    assert scenes.makes == "scenes/figures.json"
    assert caption_scenes(seed=0).makes == "dense/scenes/run.json"


def test_equal_steps() -> None:
    commands = [
        command for chain in train_methods(steps=11, seed=0, threads=1) for command in chain
    ]
    steps = [int(c.arguments[c.arguments.index("--steps") + 1]) for c in commands]
    assert steps == [5, 6, 11, 11]
