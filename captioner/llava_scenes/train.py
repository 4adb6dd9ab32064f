"""Train `llava-scenes` from scratch, on two CPU cores in about an hour.

    python -m captioner.llava_scenes.train --out captioner/models/llava-scenes

In two steps, like LLaVA: first the vision tower is trained (LLaVA uses CLIP's pretraining; here, it
learns the facts of nine cells), then projector and language model learn to describe what the frozen
tower sees. The scenes are from the split `captioner_train`; evaluation uses other splits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from captioner.llava_scenes.build import (
    PROMPT,
    build_model,
    build_processor,
    normalise,
    save_for_vllm,
)
from captioner.llava_scenes.card import TRAINING_FILE
from captioner.llava_scenes.examples import ABSENT, ATTRIBUTES, Examples, make_examples
from data.files.atomic import write_json
from data.scenes.world import GROUNDS


class FactHeads(nn.Module):
    """Predicts the facts of the nine cells from the vision tower's patches; only for training."""

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        side = math.isqrt(patches)
        grid = (torch.arange(side) + 0.5) / side * 3 - 0.5
        near = torch.exp(-((grid[None] - torch.arange(3)[:, None]) ** 2) / 0.2)  # (3, side)
        where = torch.einsum("ah,bw->abhw", near, near).reshape(9, patches)
        self.where = nn.Parameter(where.log())
        self.sizes = [2, *(len(names) for _, names in ATTRIBUTES)]
        self.read = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 256), nn.GELU(), nn.Linear(256, sum(self.sizes))
        )
        self.ground = nn.Linear(width, len(GROUNDS))

    def forward(self, patches: Tensor, labels: Tensor, grounds: Tensor) -> tuple[Tensor, Tensor]:
        """patches (B, P, D), labels (B, 9, 5), grounds (B,) -> loss, accuracies (5,)."""
        cells = torch.einsum("cp,bpd->bcd", self.where.softmax(-1), patches)
        logits = self.read(cells).split(self.sizes, -1)
        loss = F.cross_entropy(self.ground(patches.mean(1)), grounds)
        right = []
        for one, wanted in zip(logits, labels.unbind(-1), strict=True):
            loss = loss + F.cross_entropy(one.flatten(0, 1), wanted.flatten(), ignore_index=ABSENT)
            told = wanted != ABSENT
            right.append((one.argmax(-1) == wanted)[told].float().mean())
        return loss, torch.stack(right)


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """`steps` batches of indices: every example once per epoch, reshuffled each epoch."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:size]
        order = order[size:]


def one_cycle(step: int, steps: int) -> float:
    """Factor of the peak learning rate: linear warmup of 3 %, then a half cosine to 2 %."""
    warm = max(1, int(0.03 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def make_optimiser(groups: list[dict], steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = LambdaLR(optimiser, lambda step: one_cycle(step, steps))
    return optimiser, schedule


def train_tower(
    model: LlavaForConditionalGeneration, examples: Examples, *, steps: int, batch: int, seed: int
) -> None:
    """Train the vision tower on the facts of the nine cells."""
    tower = model.model.vision_tower
    config = model.config.vision_config
    heads = FactHeads(config.hidden_size, (config.image_size // config.patch_size) ** 2)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser, schedule = make_optimiser([{"params": parameters, "lr": 8e-4}], steps)
    labels, grounds = torch.from_numpy(examples.labels), torch.from_numpy(examples.grounds)
    started = time.monotonic()
    for step, rows in enumerate(batches(len(grounds), batch, steps, seed)):
        pixels = normalise(torch.from_numpy(examples.images[rows]))
        patches = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        loss, right = heads(patches, labels[rows], grounds[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            report(step="tower", at=step, of=steps, loss=loss.item(), right=right.tolist(),
                   seconds=time.monotonic() - started)  # fmt: skip


def encode_texts(processor: LlavaProcessor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids (N, L), padded on the right, and labels (N, L) with ABSENT before the answer."""
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids("<image>")
    patches = (processor.image_processor.crop_size["height"] // processor.patch_size) ** 2
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    prompt = []
    for token in tokenizer(chat).input_ids:
        prompt += [token] * (patches if token == image else 1)
    answers = [
        [*tokenizer(" " + text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        for text in texts
    ]
    longest = len(prompt) + max(len(answer) for answer in answers)
    ids = torch.full((len(texts), longest), tokenizer.pad_token_id)
    labels = torch.full((len(texts), longest), ABSENT)
    for row, answer in enumerate(answers):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


@torch.no_grad()
def look(model: LlavaForConditionalGeneration, images: np.ndarray) -> Tensor:
    """The tower's patches of each image, (N, P, D) float16; computed once, since it is frozen."""
    seen = []
    for part in np.array_split(images, max(1, len(images) // 256)):
        states = model.model.vision_tower(
            pixel_values=normalise(torch.from_numpy(part)), output_hidden_states=True
        ).hidden_states
        seen.append(states[model.config.vision_feature_layer][:, 1:].half())
    return torch.cat(seen)


def train_teller(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, examples: Examples,
    *, steps: int, batch: int, seed: int, out: Path,
) -> None:  # fmt: skip
    """Train the projector and language model to describe what the frozen tower sees."""
    ids, labels = encode_texts(processor, examples.texts)
    lengths = (ids != processor.tokenizer.pad_token_id).sum(1)
    seen = look(model, examples.images)
    model.model.vision_tower.requires_grad_(False)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, schedule = make_optimiser([{"params": learning, "lr": 1e-3}], steps)
    # Every row starts with the same prompt: image tokens begin at `start`, the answer at `answer`.
    start = int((ids[0] == model.config.image_token_index).nonzero()[0])
    answer = int((labels[0] != ABSENT).nonzero()[0])
    embed = model.get_input_embeddings()
    started = time.monotonic()
    for step, rows in enumerate(batches(len(ids), batch, steps, seed)):
        longest = int(lengths[rows].max())
        batch_ids, wanted = ids[rows, :longest], labels[rows, :longest]
        inputs = embed(batch_ids)
        patches = model.model.multi_modal_projector(seen[rows].float())
        inputs = torch.cat([inputs[:, :start], patches, inputs[:, start + patches.shape[1] :]], 1)
        # Texts are padded on the right and attention is causal, so no mask is needed.
        hidden = model.model.language_model(inputs_embeds=inputs).last_hidden_state
        logits = model.lm_head(hidden[:, answer - 1 : -1])
        wanted = wanted[:, answer:]
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=ABSENT)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            told = wanted != ABSENT
            right = ((logits.argmax(-1) == wanted) | ~told).all(1).float().mean()
            report(step="teller", at=step, of=steps, loss=loss.item(), texts_right=right.item(),
                   seconds=time.monotonic() - started)  # fmt: skip
        if step % 1000 == 999:
            save_for_vllm(model, processor, out.with_name(out.name + "-newest"))


def report(**event: object) -> None:
    """Print one JSON line of progress."""
    print(json.dumps(event), file=sys.stderr, flush=True)


def record_training(out: Path, settings: argparse.Namespace) -> None:
    """Record the training next to the weights; the card is generated from this."""
    kept = {key: value for key, value in vars(settings).items() if key not in ("out", "tower")}
    command = "python -m captioner.llava_scenes.train --out captioner/models/llava-scenes"
    for key, value in kept.items():
        if value != getattr(parse_settings(["--out", str(out)]), key):
            command += f" --{key.replace('_', '-')} {value}"
    write_json(out / TRAINING_FILE, {"command": command, "settings": kept})


def parse_settings(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--tower-scenes", type=int, default=50_000)
    parser.add_argument("--tower-steps", type=int, default=6_000)
    parser.add_argument("--teller-scenes", type=int, default=30_000)
    parser.add_argument("--teller-steps", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tower", type=Path, help="a finished tower (OUT-tower): go on from there")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    settings = parse_settings(arguments)
    torch.manual_seed(settings.seed)
    processor = build_processor()
    model = build_model(processor)
    needed = [settings.teller_scenes] + ([] if settings.tower else [settings.tower_scenes])
    examples = make_examples(max(needed), split="captioner_train", seed=settings.seed, processes=2)
    report(step="scenes", count=max(needed))
    if settings.tower:
        # The language model's initial weights are drawn before this, so both ways give the same
        # result.
        donor = LlavaForConditionalGeneration.from_pretrained(settings.tower)
        model.model.vision_tower.load_state_dict(donor.model.vision_tower.state_dict())
    else:
        train_tower(
            model, examples.first(settings.tower_scenes),
            steps=settings.tower_steps, batch=settings.batch, seed=settings.seed,
        )  # fmt: skip
        save_for_vllm(model, processor, settings.out.with_name(settings.out.name + "-tower"))
    train_teller(
        model, processor, examples.first(settings.teller_scenes),
        steps=settings.teller_steps, batch=settings.batch, seed=settings.seed, out=settings.out,
    )  # fmt: skip
    save_for_vllm(model.half(), processor, settings.out)
    record_training(settings.out, settings)


if __name__ == "__main__":
    main()
