"""Steps per second of stage 2, compared with a plain implementation of the released recipe.

    python -m benchmarks.training_rate [--towers demo tiny] [--rounds 5] [--docs docs/benchmarks]
    python -m benchmarks.training_rate --towers base --precision bf16 --workers 12 \\
        --peak-tflops 989 --docs docs/benchmarks        # on a GPU

Towers, decoder, batch, texts, images and losses are the same; only the implementation differs (see
benchmarks/plain_training.py). Every round runs each variant once, in a separate process; ratios are
computed within a round, and their medians are shown. The first steps do not count, nor does the
one-time cost before them (token ids, the teacher's embeddings, resized images), which is shown next
to the rate. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.documents import write_figures
from data.files.atomic import write_json
from data.scenes.dense import describe
from data.scenes.folder import make_truth
from data.scenes.render import render

WAYS = ("d2s", "uncached", "plain")
TITLES = {
    "d2s": "`d2s train --stage 2`",
    "uncached": "the same, each image decoded from its file again",
    "checkpointing": "the same, with activation checkpointing",
    "compiled": "the same, `accelerate launch --dynamo_backend inductor`",
    "plain": "a plain script",
}
SIZE = (500, 375)  # of a photo of Flickr30K


def towers(kind: str) -> dict[str, Any]:
    """Towers, decoder and batch: the demo's, tiny ones at a photo's size, or those of the paper."""
    px, patch, hidden, layers, heads = {
        "demo": (96, 16, 128, (3, 2), 4),
        "tiny": (224, 16, 192, (12, 4), 3),
        "base": (384, 16, 768, (12, 12), 12),
    }[kind]
    shape = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": (2 if kind == "demo" else 4) * hidden,
    }
    vit = {"model_type": "vit", "image_size": px, "patch_size": patch, **shape}
    bert = {"model_type": "bert", "max_position_embeddings": 512, **shape}
    # The paper's decoder for towers of its size; the demo's for those of the demo.
    small = {"tokens": 16, "depth": 2, "heads": 4}
    return {
        "image": {"config": {**vit, "num_hidden_layers": layers[0]}, "px": px, "token_drop": 0.2},
        "text": {
            "config": {**bert, "num_hidden_layers": layers[1]},
            "vocab_size": 2000,
            "max_tokens": 512,
        },
        "width": 128 if kind == "demo" else 512,
        "decoder": {**(small if kind == "demo" else {}), "placement": "postfix"},
        "loss": {"align": "hinge", "sum_epochs": 0, "on_collapse": "warn"},
        "data": {"items": "captions", "word_mask": 0.2, "crop_min": 0.6, "flip": 0.5},
        "optim": {
            "batch_size": {"demo": 64, "tiny": 32, "base": 128}[kind],
            "schedule": "constant",
            "log_every": 10,
            "eval_every": 10**6,
        },
    }


def write_world(folder: Path, images: int) -> None:
    """Write generated photos, each with five captions and a dense text, in the released format."""
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", images), ("dev", 8)):
        names, captions, dense = [], [], []
        for index in range(count):
            truth = make_truth(0, "train" if split == "train" else "val", index)
            name = f"{split}{index:05d}"
            picture = render(truth.scene, seed=0).resize(SIZE)
            picture.save(folder / "images" / f"{name}.jpg", quality=90)
            names.append(name)
            captions += list(truth.captions)[:5]
            dense.append(
                {"text": describe(truth.scene), "model_id": "ground truth", "metadata": {}}
            )
        (folder / f"{split}_ids.txt").write_text("".join(f"{name}\n" for name in names))
        (folder / f"{split}_caps.txt").write_text("".join(f"{text}\n" for text in captions))
        lines = "".join(json.dumps(line) + "\n" for line in dense)
        (folder / f"f30k_{split}.jsonl").write_text(lines)
    mapping = {path.stem: path.name for path in sorted((folder / "images").iterdir())}
    write_json(folder / "id_mapping.json", mapping)


def train_stages(
    world: Path,
    out: Path,
    raw: dict[str, Any],
    *,
    steps: int,
    report: Callable[[dict[str, Any]], None],
) -> float:
    """One step of stage 1, then stage 2 with d2s's trainer.

    Args:
        raw: the recipe of both stages.
        steps: of stage 2.
        report: is called with the events of stage 2.

    Returns:
        When stage 2 began, in seconds of `time.perf_counter`.
    """
    from vse.samples.discovery import find_input
    from vse.training.run import train
    from vse.training.spec import make_spec

    paths = find_input(images=world / "images", captions=world, dense=None, wants_dense=True)
    began = 0.0
    for stage, count in (("1", 1), ("2", steps)):
        spec = make_spec(
            stage=stage,
            out=out / f"stage{stage}",
            raw=raw,
            overrides=(),
            options={"optim__steps": count},
            paths=paths,
            init=out / "stage1" if stage == "2" else None,
            limit=None,
        )
        began = time.perf_counter()
        train(spec, report=report if stage == "2" else lambda event: None)
    return began


def run_ours(way: str, folder: Path, out: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """When each step of stage 2 ended, with d2s's trainer."""
    raw = towers(settings.towers[0])
    raw["data"] |= {"workers": settings.workers, "cache_images": way != "uncached"}
    raw["optim"] |= {"precision": settings.precision}
    for part in ("image", "text"):
        raw[part]["checkpointing"] = way == "checkpointing"
    if way == "compiled":
        # As set by `accelerate launch --dynamo_backend inductor`.
        os.environ["ACCELERATE_DYNAMO_BACKEND"] = "INDUCTOR"
    ends: list[float] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "tick":
            ends.append(time.perf_counter())

    steps = settings.warm + settings.steps
    began = train_stages(folder, out, raw, steps=steps, report=report)
    return {"ends": ends[settings.warm - 1 :], "before": ends[0] - began}


def run_plain(folder: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """The plain script on the same files."""
    import torch
    from transformers import AutoConfig, AutoModel

    from benchmarks import plain_training as plain
    from vse.model.tokenizer import tokenizer as tokenizers

    raw = towers(settings.towers[0])
    texts = (folder / "train_caps.txt").read_text().splitlines()
    texts += [json.loads(t)["text"] for t in (folder / "f30k_train.jsonl").read_text().splitlines()]
    began = time.perf_counter()
    words = tokenizers.build(texts, vocab_size=raw["text"]["vocab_size"])
    backbones = []
    for part in ("image", "text"):
        config = dict(raw[part]["config"])
        if part == "text":
            config["vocab_size"] = words.vocab_size
        made = AutoConfig.for_model(config.pop("model_type"), **config)
        backbones.append(AutoModel.from_config(made))
    hidden, width = raw["image"]["config"]["hidden_size"], raw["width"]
    model = plain.PlainModel(
        plain.PlainImageTower(backbones[0], hidden, width),
        plain.PlainTextTower(backbones[1], hidden, width),
        width=width,
        decoder={"tokens": 100, "depth": 4, "heads": 4, "mlp_ratio": 4.0, **raw["decoder"]},
    )
    pairs = plain.PlainPairs(folder, px=raw["image"]["px"], vocabulary=words.backend.get_vocab())
    ends = plain.train_plainly(
        model,
        pairs,
        batch_size=raw["optim"]["batch_size"],
        steps=settings.warm + settings.steps,
        workers=settings.workers,
        precision=settings.precision,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    return {"ends": ends[settings.warm - 1 :], "before": ends[0] - began}


def run_here(way: str, folder: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in this process: steps per second, and peak memory."""
    import resource

    import torch

    with tempfile.TemporaryDirectory() as scratch:
        found = (
            run_plain(folder, settings)
            if way == "plain"
            else run_ours(way, folder, Path(scratch), settings)
        )
    ends = found["ends"]
    cuda = torch.cuda.is_available()
    return {
        "rate": (len(ends) - 1) / (ends[-1] - ends[0]),
        "before": found["before"],
        "device_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "resident_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores",
        "flops": count_flops(settings.towers[0]),
    }


def count_flops(kind: str) -> float:
    """FLOP of one step of stage 2, forward and backward, by PyTorch's counter.

    Texts of 16 words, nothing dropped, the teacher's embeddings looked up.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from vse.model.backbones import ImageBackbone, TextBackbone, build_backbone
    from vse.model.build import make_decoder
    from vse.model.d2s import D2SModel
    from vse.model.text_batch import TextBatch
    from vse.model.towers import ImageTower, TextTower
    from vse.recipes import Recipe, build

    raw = towers(kind)
    recipe = build(Recipe, raw)
    image = build_backbone(raw["image"]["config"])
    words = build_backbone(raw["text"]["config"])
    assert isinstance(image, ImageBackbone) and isinstance(words, TextBackbone)
    batch, px, length = raw["optim"]["batch_size"], raw["image"]["px"], 16
    model = D2SModel(
        ImageTower(image, width=recipe.width),
        TextTower(words, width=recipe.width),
        make_decoder(recipe.width, recipe.decoder),
    )
    text = TextBatch(
        torch.ones(2, length, dtype=torch.int64),
        None,
        torch.full((2,), length),
        torch.arange(2 * length),
    )
    # The counter does not know the CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        v, t = model(torch.zeros(2, 3, px, px), text)
        (v.sum() + t.sum()).backward()
    return counter.get_total_flops() * batch / 2


def measure(folder: Path, kind: str, settings: argparse.Namespace) -> dict[str, list[Any]]:
    """Results of each variant in each round; the order rotates from round to round."""
    ways = settings.ways
    found: dict[str, list[Any]] = {way: [] for way in ways}
    for number in range(settings.rounds):
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            command = [sys.executable, "-m", "benchmarks.training_rate", "--way", way]
            command += ["--towers", kind, "--world", str(folder)]
            for name in ("steps", "warm", "workers", "precision"):
                command += [f"--{name}", str(getattr(settings, name))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            found[way].append(result)
            print(
                f"{kind}, round {number + 1}: {way} {result['rate']:.3f} steps/s",
                file=sys.stderr,
                flush=True,
            )
    return found


def summarise(kind: str, found: dict[str, list[Any]], peak: float | None) -> dict[str, Any]:
    """Medians over the rounds; ratios are computed within a round."""
    batch = towers(kind)["optim"]["batch_size"]
    ways = {}
    for way, results in found.items():
        rates = [result["rate"] for result in results]
        script = [result["rate"] for result in found.get("plain", ())]
        flops = results[0]["flops"]
        rate = statistics.median(rates)
        memory = [r["device_gib"] or r["resident_gib"] for r in results]
        ways[way] = {
            "steps_per_s": rate,
            "samples_per_s": rate * batch,
            "ratio": (
                statistics.median(own / plain for own, plain in zip(rates, script, strict=True))
                if script
                else None
            ),
            "memory_gib": statistics.median(memory),
            "before_s": statistics.median(result["before"] for result in results),
            "share_of_peak": flops * rate / (peak * 1e12) if flops and peak else None,
            "rates": rates,
        }
    [device] = {result["device"] for results in found.values() for result in results}
    return {"batch": batch, "device": device, "ways": ways}


def write_text(figures: dict[str, Any]) -> str:
    """The tables."""
    parts = [
        f"{figures['machine']}; torch {figures['torch']}, {figures['precision']}, "
        f"{figures['workers']} loader processes; medians of {figures['rounds']} paired rounds of "
        f"{figures['steps']} steps after {figures['warm']} that are not counted. JPEGs of "
        f"{SIZE[0]} x {SIZE[1]}, five captions and one dense text per image. Memory is the "
        "device's, or the process's where there is no GPU. *Before* is the one-time cost until the "
        "end of the first step: setup, and for `d2s train` also token ids, the teacher's "
        "embeddings and the resized images.\n"
    ]
    for kind, found in figures["towers"].items():
        image = towers(kind)["image"]
        title = f"## `{kind}`: ViT {image['config']['hidden_size']} wide at {image['px']} px"
        parts += [f"{title}, batch {found['batch']}, {found['device']}\n"]
        rows = [
            (
                "| way | steps/s | samples/s | relative to the script | memory, GiB | before, s | "
                "of peak |"
            ),
            "|---|---|---|---|---|---|---|",
        ]
        for way, row in found["ways"].items():
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            peak = "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.1f} %"
            rows.append(
                f"| {TITLES[way]} | {row['steps_per_s']:.2f} | {row['samples_per_s']:.1f} | "
                f"{ratio} | {row['memory_gib']:.2f} | {row['before_s']:.1f} | {peak} |"
            )
        parts += ["\n".join(rows) + "\n"]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--towers", nargs="+", choices=("demo", "tiny", "base"), default=["demo", "tiny"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--ways", nargs="+", choices=list(TITLES), default=list(WAYS))
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--way", choices=list(TITLES), help=argparse.SUPPRESS)
    parser.add_argument("--world", type=Path, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.way:
        print(json.dumps(run_here(settings.way, settings.world, settings)))
        return
    import torch

    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        **{
            name: getattr(settings, name)
            for name in ("precision", "workers", "rounds", "steps", "warm")
        },
        "towers": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "world"
        write_world(world, settings.images)
        for kind in settings.towers:
            found = measure(world, kind, settings)
            figures["towers"][kind] = summarise(kind, found, settings.peak_tflops)
    text = write_text(figures)
    title = "Training rate of stage 2"
    write_figures(settings.docs, "training_rate", title=title, text=text, figures=figures)


if __name__ == "__main__":
    main()
