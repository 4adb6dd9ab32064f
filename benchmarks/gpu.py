"""All measurements that need a GPU, in one command.

    python -m benchmarks.gpu [--out artifacts/gpu] [--minutes 10] [--docs docs/benchmarks]

- `bf16`, `fp16`: stage 2 at ViT-B/16, 384 px, and BERT-base, batch 128: samples per second, memory
  and share of the device's peak, compared with a plain script, compiled, and with recomputed
  activations (benchmarks/training_rate.py).
- `waits`: number of GPU synchronizations per step, counted by PyTorch.
- `nccl`, `sharded`: stage 1 on all GPUs of the machine, with DDP and FSDP2.
- `captions`: `d2s caption` compared with the bare engine, if vLLM is installed for this machine.

Each part is a separate process and writes a file to `--out`; run the same command again to do what
is missing. No part starts after `--minutes`. Without a GPU, `--try` runs the parts that a CPU can
do at the size of the demo, which only tests the command.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.documents import write_figures
from benchmarks.training_rate import towers, train_stages, write_world
from data.files.atomic import write_json
from pipelines.workflow.origin import hash_code
from vse.runs.folder import read_log

# Dense bf16 and fp16 of the tensor cores without sparsity, TFLOP/s, from NVIDIA's data sheets.
PEAKS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "4090": 165.2,
}


@dataclass(frozen=True)
class Size:
    """The sizes of the measurements."""

    towers: str
    steps: int
    rounds: int
    images: int


FULL, TRIAL = Size("base", 20, 2, 512), Size("demo", 2, 1, 64)


def measure_rates(size: Size, precision: str, ways: tuple[str, ...]) -> dict[str, Any]:
    """The results of benchmarks.training_rate."""
    with tempfile.TemporaryDirectory() as name:
        command = ["benchmarks.training_rate", "--towers", size.towers, "--precision", precision]
        command += ["--rounds", str(size.rounds), "--steps", str(size.steps)]
        command += ["--images", str(size.images), "--docs", name, "--ways", *ways]
        command += ["--workers", str(count_workers())]
        peak = find_peak()
        command += ["--peak-tflops", str(peak)] if peak else []
        run_module(*command)
        figures = json.loads((Path(name) / "training_rate.json").read_text())
    return dict(figures["towers"][size.towers])


def count_workers() -> int:
    """Loader processes, for all GPUs."""
    return min(12, (os.cpu_count() or 1) - 1)


def find_peak() -> float | None:
    """Peak TFLOP/s of this device in half precision, if known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for model, peak in PEAKS.items() if model in name), None)


def count_waits(size: Size) -> dict[str, Any]:
    """Synchronizations within steps of stage 2, with locations, by `set_sync_debug_mode`."""
    first, last = 3, 3 + size.steps

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and torch.cuda.is_available():
            mode = "warn" if first <= event["step"] < last else "default"
            torch.cuda.set_sync_debug_mode(mode)

    raw = towers(size.towers)
    raw["data"] |= {"cache_images": True}
    raw["optim"] |= {"precision": "auto", "log_every": 10**6}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        world, out = Path(name) / "world", Path(name) / "runs"
        write_world(world, size.images)
        train_stages(world, out, raw, steps=last + 1, report=watch)
    found = [w for w in caught if "synchroniz" in str(w.message)]
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found)
    return {"steps": size.steps, "waits": len(found), "places": dict(places.most_common(10))}


def train_together(size: Size, *launch: str) -> dict[str, Any]:
    """Samples per second on all GPUs (or two CPU processes), from the run's log."""
    count = torch.cuda.device_count() or 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder / "world", size.images)
        raw = towers(size.towers)
        raw["data"] |= {"cache_images": True, "workers": count_workers() // count}
        write_json(folder / "recipe.json", raw)  # JSON is YAML
        command = ["accelerate.commands.launch", "--num_processes", str(count)]
        command += ["--num_machines", "1", "--dynamo_backend", "no", "--mixed_precision", "no"]
        command += launch
        command += ["-m", "pipelines.cli", "train", "--stage", "1", "--recipe", "recipe.json"]
        command += ["--images", "world/images", "--captions", "world", "--out", "run"]
        command += ["--steps", str(size.steps), "--set", "optim.precision=auto"]
        command += ["--set", f"optim.log_every={max(1, size.steps // 2)}"]
        run_module(*command, cwd=folder)
        steps = [e for e in read_log(folder / "run") if e["event"] == "step"]
    return {
        "processes": count,
        "samples_per_s": steps[-1]["samples_per_s"],
        "loss": steps[-1]["loss"],
    }


def measure_captions(size: Size) -> dict[str, Any]:
    """The results of benchmarks.caption_rate."""
    with tempfile.TemporaryDirectory() as name:
        images = 2000 if size is FULL else 16
        options = ["--methods", "d2s", "one", "bare", "--rounds", "1", "--images", str(images)]
        run_module("benchmarks.caption_rate", *options, "--docs", name)
        return dict(json.loads((Path(name) / "caption_rate.json").read_text()))


def run_module(*command: str, cwd: Path | None = None) -> None:
    """Run `python -m` with this environment; its output is progress."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", os.getcwd(), *sys.path[1:]])}
    subprocess.run(
        [sys.executable, "-m", *command], stdout=sys.stderr, cwd=cwd, env=environment, check=True
    )


PARTS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "bf16": lambda size: measure_rates(
        size, "bf16", ("d2s", "plain", "compiled", "checkpointing", "uncached")
    ),
    "fp16": lambda size: measure_rates(size, "fp16", ("d2s", "plain")),
    "waits": count_waits,
    "nccl": lambda size: train_together(
        size, "--multi_gpu" if torch.cuda.is_available() else "--cpu"
    ),
    "sharded": lambda size: train_together(size, "--use_fsdp", "--fsdp_version", "2"),
    "captions": measure_captions,
}


def find_obstacle(part: str, *, trial: bool) -> str | None:
    """The reason why a part cannot be measured on this machine."""
    gpus = torch.cuda.device_count()
    if part == "captions" and importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    if part in ("nccl", "sharded") and gpus < 2 and not trial:
        return f"it takes two GPUs, and this machine has {gpus}"
    if part in ("fp16", "waits") and gpus == 0:
        return "it takes a GPU"
    return None


def write_text(figures: dict[str, Any]) -> str:
    """A section for each part."""
    lines = [f"{figures['machine']}; torch {figures['torch']}.\n"]
    for part, found in figures["parts"].items():
        lines.append(f"## `{part}`\n")
        if "left_out" in found:
            lines.append(f"Not measured: {found['left_out']}.\n")
        elif "ways" not in found or part == "captions":
            lines.append(f"```json\n{json.dumps(found, indent=1)}\n```\n")
        else:
            lines += [
                "| way | samples/s | to the script | memory, GiB | of peak |",
                "|---|---|---|---|---|",
            ]
            for way, row in found["ways"].items():
                peak = row["share_of_peak"]
                lines.append(
                    f"| {way} | {row['samples_per_s']:.1f} | {row['ratio']:.2f} | "
                    f"{row['memory_gib']:.2f} | {'' if peak is None else f'{100 * peak:.1f} %'} |"
                )
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts/gpu"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--docs", type=Path, help="folder for gpu.md and gpu.json")
    parser.add_argument("--try", dest="trial", action="store_true", help="small, also on a CPU")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    size = TRIAL if settings.trial else FULL
    about = describe_run(settings)
    if settings.part:
        found = {"about": about, "figures": PARTS[settings.part](size)}
        write_json(settings.out / f"{settings.part}.json", found)
        return
    if not (torch.cuda.is_available() or settings.trial):
        sys.exit("no GPU found; --try goes through the parts at a small size")
    settings.out.mkdir(parents=True, exist_ok=True)
    parts = measure_parts(settings)
    figures = {**about, "parts": parts}
    title = "On a GPU"
    write_figures(settings.docs, "gpu", title=title, text=write_text(figures), figures=figures)


def describe_run(settings: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for parts that are shown together."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    trial = ", a trial at a small size" if settings.trial else ""
    versions = {"torch": str(torch.__version__)}
    with contextlib.suppress(PackageNotFoundError):
        versions["vllm"] = version("vllm")
    return {"machine": f"{device}{trial}", **versions, "code": hash_code(Path(__file__).parent)}


def read_part(path: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The figures of a part, if they are of this machine, size and code."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return dict(found["figures"]) if found.get("about") == about else None


def measure_parts(settings: argparse.Namespace) -> dict[str, Any]:
    """Measure each part; a failure is recorded and does not affect other parts."""
    ends = time.monotonic() + 60 * settings.minutes
    about = describe_run(settings)
    parts: dict[str, Any] = {}
    for part in settings.parts:
        path = settings.out / f"{part}.json"
        obstacle = find_obstacle(part, trial=settings.trial)
        if obstacle is None and read_part(path, about) is None:
            left = ends - time.monotonic()
            command = ["benchmarks.gpu", "--part", part, "--out", str(settings.out)]
            obstacle = run_part(part, [*command, *(["--try"] * settings.trial)], left)
        parts[part] = read_part(path, about) or {"left_out": obstacle}
    return parts


def run_part(part: str, command: list[str], seconds: float) -> str | None:
    """Measure one part in a separate process; returns the reason for a failure.

    Its own processes end with it, so that they do not run beside the next part.
    """
    if seconds <= 0:
        return "no time was left; the same command again does it"
    print(f"{part}: measuring", file=sys.stderr, flush=True)
    process = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return "it did not end within --minutes"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"it failed with exit code {code}; its messages are above" if code else None


if __name__ == "__main__":
    main()
