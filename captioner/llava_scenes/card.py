"""The model card of `llava-scenes`, generated from its records."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from data.files.atomic import replace_whole

TRAINING_FILE = "training.json"
_CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, vllm, synthetic]
---

# llava-scenes

A `LlavaForConditionalGeneration` of {parameters:.1f} M parameters ({megabytes:.1f} MB in {dtype})
that describes the generated scenes of d2s (`d2s scenes`) and nothing else; its texts about
photos are nonsense. It exists so that the whole pipeline, from images to a retrieval model, can run
with the real engine on a small machine.

Asked "Describe this image in detail." with greedy decoding through vLLM, on {scenes} held-out
scenes (split `{split}`, seed {seed}):

| figure | value |
|---|---|
| statements that are true | {true:.2%} of {statements} |
| facts that are mentioned | {told:.2%} of {facts} |
| sentences in which every statement is true | {sentences_exact:.2%} |

A statement is one claim: the number of things, the ground, the place of a thing, its shape, color,
size and texture, and the closing relation. To repeat the measurement, run
`python -m captioner.llava_scenes.check`.

## How it was trained

It was trained on generated scenes of the split `captioner_train`, which shares no scene with the
splits used for testing or in the demo: first the vision tower, on the facts of nine cells; then,
with the tower frozen, the projector and the language model, on the dense texts.

```bash
{command}
```

| setting | value |
|---|---|
{settings}
"""


def write_card(directory: Path, figures: dict) -> None:
    """Write README.md into the model's folder from `training.json`, the weights and `figures`."""
    training = json.loads((directory / TRAINING_FILE).read_text())
    weights = directory / "model.safetensors"
    with safe_open(weights, framework="np") as tensors:
        shapes = [tensors.get_slice(key) for key in tensors.keys()]  # noqa: SIM118
        parameters = sum(_product(one.get_shape()) for one in shapes)
        dtype = shapes[0].get_dtype()
    rows = [f"| {name} | {value} |" for name, value in training["settings"].items()]
    card = _CARD.format(
        parameters=parameters / 1e6,
        megabytes=weights.stat().st_size / 1e6,
        dtype=dtype,
        command=training["command"],
        settings="\n".join(rows),
        **figures,
    )
    with replace_whole(directory / "README.md") as temporary:
        temporary.write_text(card)


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
