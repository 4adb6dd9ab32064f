"""rSum on the validation split, by which the best weights are chosen, or where the recipe says."""

from __future__ import annotations

from collections.abc import Callable

from vse.evaluation.split_parts import measure
from vse.model.d2s import D2SModel
from vse.model.encoding import embed_images, embed_texts
from vse.training.datasets import RunInputs
from vse.training.spec import OPTIMISTIC, Plan
from vse.training.trainer import Validation


def make_validation(plan: Plan, inputs: RunInputs) -> Callable[[D2SModel], Validation | None]:
    """How a model of this plan is validated; without images to do it on it says None."""
    split = plan.recipe.data.select_split
    val = plan.corpus.splits[split]
    if not val:
        name = {"val": "validation"}.get(split, split)
        inputs.warn(f"no {name} split: the last weights are kept, not the best")
        return lambda model: None
    if split == "test":
        inputs.warn(OPTIMISTIC)
    pixels = inputs.pixels(val, split)
    kinds = {"sparse": inputs.sparse(val)}
    silent = sum(not sample.dense for sample in val)
    if plan.stage == "1" and silent == 0:
        # Stage 1 aligns dense text, so that is what tells how far it is.
        kinds = {"dense": inputs.dense(val), **kinds}
    elif plan.stage == "1":
        inputs.warn(
            f"{silent} of {len(val)} {split} images have no dense text: "
            "the best weights are chosen by sparse captions"
        )
    chosen, pad_id = next(iter(kinds)), inputs.tokenizer.pad_id

    def validate(model: D2SModel) -> Validation:
        images = embed_images(model, pixels)
        found = {
            kind: measure(
                images, embed_texts(model, texts.store, pad_id=pad_id), texts.image_of
            ).metrics
            for kind, texts in kinds.items()
        }
        return Validation(found[chosen]["rsum"], {"chosen_by": chosen, **found})

    return validate
