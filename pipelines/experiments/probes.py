"""Probes: which facts omitted by a caption its embedding contains, and how many bits of each.

    python -m pipelines.experiments.probes RUN ... --scenes FOLDER --docs docs/experiments

A linear classifier (a probe: Alain and Bengio, 2016, arXiv 1610.01644) is trained for each fact on
the captions of training images that omit it, and measured on those of test images. Its input is the
caption's words, t (the text tower), t + r (with the decoder), or v, the image's own embedding, an
upper bound for that of a caption. Bits: the fact's entropy minus the probe's cross-entropy, a lower
bound of their mutual information.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.environment import strip_path
from data.files.atomic import replace_whole, write_json
from data.scenes.folder import Truth, read_truths
from data.scenes.sparse import Told
from data.scenes.world import GROUNDS, TEXTURES, Scene
from pipelines.console.command_line import print_text, say
from pipelines.experiments.document import NOTHING, join_cells
from pipelines.experiments.script import report_errors
from pipelines.workflow.origin import quote_command
from vse.embedders.embedder import Embedder, load_embedder
from vse.model.encoding import embed_texts

SPLITS = ("train", "val", "test")
# Weights of the L2 penalty, chosen on validation images.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_STEPS = 200
IMAGE = "v"


@dataclass(frozen=True)
class Fact:
    """A question about a scene, given one of its captions.

    `find` returns the answer as a number from 0, or None if the caption states it or refers
    ambiguously. `of_scene`: the answer only depends on the image.
    """

    name: str
    find: Callable[[Scene, Told], int | None]
    of_scene: bool = True


def find_ground(scene: Scene, told: Told) -> int | None:
    """The ground, unless the caption states it."""
    return None if told.ground else GROUNDS.index(scene.ground)


def find_texture(scene: Scene, told: Told) -> int | None:
    """The texture of the first thing mentioned; its shape is stated."""
    mention = told.mentions[0]
    things = [thing for thing in scene.things if thing.shape == mention.shape]
    if mention.texture or len(things) != 1:
        return None
    return TEXTURES.index(things[0].texture)


def find_any(attribute: str, value: str, scene: Scene, told: Told) -> int | None:
    """Whether any thing has this value, unless a mention says so."""
    if any(getattr(mention, attribute) == value for mention in told.mentions):
        return None
    return int(any(getattr(thing, attribute) == value for thing in scene.things))


FACTS = (
    Fact("ground", find_ground),
    Fact("texture of the first thing", find_texture, of_scene=False),
    Fact("something red", partial(find_any, "colour", "red")),
    Fact("a star", partial(find_any, "shape", "star")),
)


@dataclass(frozen=True)
class Captions:
    """The captions of all images, in order, with their images and splits."""

    texts: tuple[str, ...]
    truths: tuple[Truth, ...]
    image_of: np.ndarray  # (M,) index into truths
    split: np.ndarray  # (M,) index into SPLITS

    @classmethod
    def of(cls, truths: Sequence[Truth]) -> Captions:
        """The indices of the three splits."""
        kept = tuple(truth for truth in truths if truth.scene.split in SPLITS)
        counts = [len(truth.captions) for truth in kept]
        splits = [SPLITS.index(truth.scene.split) for truth in kept]
        return cls(
            tuple(text for truth in kept for text in truth.captions),
            kept,
            np.repeat(np.arange(len(kept)), counts),
            np.repeat(splits, counts),
        )

    def find(self, fact: Fact) -> np.ndarray:
        """(M,) answers, -1 if there is nothing to infer."""
        answers = (fact.find(t.scene, told) for t in self.truths for told in t.told)
        return np.array([-1 if answer is None else answer for answer in answers])


def measure_bits(inputs: np.ndarray, answers: np.ndarray, split: np.ndarray) -> float:
    """Bits of the answers that a linear probe of `inputs` (M, D) predicts on the test split.

    Only negative if validation overestimated the probe.
    """
    known = answers >= 0
    means, deviation = inputs[known & (split == 0)].mean(0), inputs[known & (split == 0)].std(0)
    scaled = (inputs - means) / np.maximum(deviation, 1e-6)
    parts = [
        (
            torch.tensor(scaled[known & (split == number)], dtype=torch.float32),
            torch.tensor(answers[known & (split == number)]),
        )
        for number in range(len(SPLITS))
    ]
    kinds = int(answers.max()) + 1
    share = torch.bincount(parts[0][1], minlength=kinds) + 1.0
    prior = (share / share.sum()).log()
    fits = [fit(*parts[0], prior=prior, penalty=penalty) for penalty in PENALTIES]
    best = min(fits, key=lambda probe: cross_entropy(probe, *parts[1], prior=prior))
    nothing = torch.zeros_like(best)
    known_before = cross_entropy(nothing, *parts[2], prior=prior)
    return (known_before - cross_entropy(best, *parts[2], prior=prior)) / float(np.log(2))


def fit(inputs: torch.Tensor, answers: torch.Tensor, *, prior: torch.Tensor, penalty: float) -> Any:
    """Weights (D, kinds) of a logistic regression with the prior as offset."""
    weights = torch.zeros(inputs.shape[1], len(prior), requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        logits = inputs @ weights + prior
        value = torch.nn.functional.cross_entropy(logits, answers)
        value = value + penalty * weights.square().sum()
        value.backward()
        return value

    search.step(loss)
    return weights.detach()


def cross_entropy(
    weights: torch.Tensor, inputs: torch.Tensor, answers: torch.Tensor, *, prior: torch.Tensor
) -> float:
    """Mean over the answers, in nats."""
    return float(torch.nn.functional.cross_entropy(inputs @ weights + prior, answers))


def write_words(texts: Sequence[str]) -> np.ndarray:
    """(M, words) bag of words: what can be inferred without a model."""
    bags = [set(text.lower().rstrip(".").replace(",", "").split()) for text in texts]
    words = sorted(set().union(*bags))
    return np.array([[word in bag for word in words] for bag in bags], dtype=np.float32)


def embed(run: Path, captions: Captions, scenes: Path) -> Iterator[tuple[str, np.ndarray]]:
    """A model's embeddings of each caption and its image: (name, (M, D))."""
    model: Embedder = load_embedder(run)
    store, pad = model.tokenize(captions.texts), model.tokenizer.pad_id
    yield "t", embed_texts(model.model, store, pad_id=pad, unit=False, decode=False)
    if model.model.decoder is not None:
        yield "t + r", embed_texts(model.model, store, pad_id=pad, unit=False)
    images = model.encode_image([scenes / truth.file_name for truth in captions.truths])
    yield IMAGE, images[captions.image_of]


def run_probes(runs: Sequence[Path], scenes: Path) -> list[dict[str, Any]]:
    """Bits by probe input and fact.

    Raises:
        UserError: a folder contains no scenes or no model.
    """
    captions = Captions.of(list(read_truths(scenes)))
    answers = {fact.name: captions.find(fact) for fact in FACTS}

    def measure(reads: str, of: str, inputs: np.ndarray) -> dict[str, Any]:
        bits = {
            fact.name: measure_bits(inputs, answers[fact.name], captions.split)
            for fact in FACTS
            if fact.of_scene or reads != IMAGE
        }
        say(f"{of}, {reads}: " + ", ".join(f"{name} {value:.3f}" for name, value in bits.items()))
        return {"model": of, "reads": reads, "bits": bits}

    rows = [measure("words", "none", write_words(captions.texts))]
    for run in runs:
        name = strip_path(str(run))
        rows += [measure(reads, name, found) for reads, found in embed(run, captions, scenes)]
    return rows


def write_page(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    head = ["model", "the probe reads", *(fact.name for fact in FACTS)]
    lines = [join_cells(head), "|" + "---|" * len(head)]
    for row in rows:
        known = row["bits"]
        bits = (f"{known[f.name]:.2f}" if f.name in known else NOTHING for f in FACTS)
        lines.append(join_cells([row["model"], row["reads"], *bits]))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--scenes", type=Path, required=True, help="folder of d2s scenes")
    parser.add_argument("--docs", type=Path, help="folder for probes.md and probes.json")
    given = parser.parse_args()
    with report_errors("probes"):
        rows = run_probes(given.runs, given.scenes)
    page = write_page(rows)
    print_text(page)
    if given.docs is not None:
        command = quote_command(["python", "-m", "pipelines.experiments.probes", *sys.argv[1:]])
        given.docs.mkdir(parents=True, exist_ok=True)
        write_json(given.docs / "probes.json", {"command": command, "rows": rows})
        title = "# Facts that a caption leaves out, read off its embedding"
        note = "Bits a linear probe reads on the test images, of captions that do not tell the fact"
        with replace_whole(given.docs / "probes.md") as temporary:
            temporary.write_text(f"{title}\n\nWritten by `{command}`.\n\n{note}.\n\n{page}")


if __name__ == "__main__":
    main()
