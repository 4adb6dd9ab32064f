"""What our model says where a golden pair says what the released code said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.pair import Pair
from vse.model.build import rebuild
from vse.model.d2s import D2SModel
from vse.model.text_batch import TextBatch, pad_texts
from vse.objective.alignment import cosine_scores, hinge
from vse.objective.distillation import distill
from vse.objective.stages import DenseStage, SparseStage
from vse.recipes import LossConfig, Recipe
from vse.recipes.files import read_recipe, resolve
from vse.released.architecture import describe_weights
from vse.released.keys import TEMPLATES, our_key
from vse.training.optim import make_optimizer

KINDS = {"cos": "cosine"}  # l1 and l2 are called so here too
LOSS = re.compile(r"s(\d)_loss_(sum|hard)(?:_alpha([\d.]+))?$")


def build(pair: Pair, stage: int) -> D2SModel:
    """The model of the pair's names and shapes, with the formula's weights, in evaluation mode.

    Raises:
        UserError: names that the released code does not have.
        RuntimeError: a weight of ours is not among them, or has another shape.
    """
    meta = pair.meta
    model = rebuild(
        describe_weights(
            pair.shapes[stage],
            px=meta["px"],
            residual=meta.get("residual", True),
            heads=meta.get("heads", 4),
        )
    )
    counters = {k: v for k, v in model.state_dict().items() if not v.is_floating_point()}
    weights = {
        ours: torch.from_numpy(value)
        for key, value in pair.weights(stage).items()
        if (ours := our_key(key)) is not None
    }
    model.load_state_dict({**weights, **counters})
    return model.eval()


class Outcome:
    """One stage: the embeddings with their gradients, and all that follows from them."""

    def __init__(self, pair: Pair, stage: int) -> None:
        self.pair = pair
        self.stage = stage
        self.model = build(pair, stage)
        self.recipe: Recipe = resolve(read_recipe("released"), stage=str(stage))
        self.images = torch.from_numpy(pair.arrays["images"])
        self.index = torch.from_numpy(pair.arrays["image_index"])
        self.dense, self.sparse = self._texts("dense"), self._texts("sparse")
        self.v = self.model.encode_image(self.images)
        self.t, self.words = self.model.text(self.dense if stage == 1 else self.sparse)
        if stage == 2:
            assert self.model.decoder is not None
            self.r = self.model.decoder(self.words, mask=self.sparse.mask)
            self.joined = self.t + self.r if self.model.residual else self.r
            self.teacher = self.model.text(self.dense)[0].detach()

    def arrays(self) -> dict[str, np.ndarray]:
        """The embeddings under the names of the pair."""
        if self.stage == 1:
            found = {
                "s1_image_emb": self.v,
                "s1_text_emb": self.t,
                "s1_word_feat": self.words,
            }
        else:
            # What `d2s evaluate` compares: evaluation mode, of length 1.
            tested = torch.nn.functional.normalize(self.model.encode_text(self.sparse), dim=-1)
            found = {
                "s2_image_emb": self.v,
                "s2_sparse_emb": self.t,
                "s2_decoder_mean": self.r,
                "s2_teacher_emb": self.teacher,
                "s2_test_text_emb": tested,
            }
        return {name: value.detach().numpy() for name, value in found.items()}

    def losses(self) -> Iterator[tuple[str, float, dict[str, float]]]:
        """For each loss in the pair its name, our value and our gradient norms."""
        for name in self.pair.numbers:
            match = LOSS.match(name)
            if match is None or int(match[1]) != self.stage:
                continue
            loss = self._loss(hardest=match[2] == "hard") * float(match[3] or 1)
            self.model.zero_grad(set_to_none=True)
            loss.backward(retain_graph=True)
            norms = {
                released(key): float(p.grad.norm())
                for key, p in self.model.named_parameters()
                if p.grad is not None
            }
            yield name, float(loss.detach()), norms

    def rates(self) -> dict[str, float]:
        """The learning rate of every weight in the first epoch, under its released name."""
        loss = LossConfig()
        stage = DenseStage(self.model, loss) if self.stage == 1 else SparseStage(self.model, loss)
        optimizer = make_optimizer(stage, self.recipe.optim)
        lr = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        return {released(key): lr[id(p)] for key, p in self.model.named_parameters()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of our weights, under their released names."""
        return {released(k): tuple(v.shape) for k, v in self.model.state_dict().items()}

    def _loss(self, *, hardest: bool) -> Tensor:
        config, meta = self.recipe.loss, self.pair.meta
        text = self.t if self.stage == 1 else self.joined
        margin: Any = meta.get("margin", config.margin)
        scores = cosine_scores(self.v, text)
        reduction = config.align_reduction
        align = hinge(scores, self.index, margin=margin, hardest=hardest, reduction=reduction)
        if self.stage == 1:
            return align
        kind = str(meta.get("distill_loss", "cos"))
        distance = distill(
            text,
            self.teacher,
            kind=KINDS.get(kind, kind),
            reduction=config.distill_reduction,
        )
        return align + config.distill_weight * distance

    def _texts(self, kind: str) -> TextBatch:
        ids, lengths = (self.pair.arrays[f"{kind}_{part}"] for part in ("ids", "len"))
        rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        return pad_texts(rows, pad_id=0, length=ids.shape[1])


def released(ours: str) -> str:
    """The released name of one of our weights, which it must have: the table, read backwards."""
    for theirs, template in TEMPLATES:
        if match := re.match(re.escape(template).replace(r"\{\}", r"(\d+)"), ours):
            return theirs.format(*match.groups()) + ours[match.end() :]
    raise AssertionError(ours)
