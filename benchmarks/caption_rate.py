"""Images per second of `d2s caption`, compared with the bare engine and alternatives.

    python -m benchmarks.caption_rate [--images 2000] [--rounds 3] [--docs docs/benchmarks]

Every round runs each method once, in a separate process, on the same scenes; ratios are computed
within a round, and their medians over the rounds are shown. The startup of the engine does not
count. Nothing else may run meanwhile. On two cores a round of 2,000 scenes takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.documents import write_figures
from data.scenes.folder import write_scenes
from pipelines.workflow.machine import name_machine

METHODS = ("d2s", "one", "bare", "generate", "transformers", "ray")
TITLES = {
    "d2s": "`d2s caption`: decode, engines, journal, shards",
    "one": "the same with `--engines 1`",
    "bare": "one bare engine, images ready in memory",
    "generate": "a script that decodes the images and calls `LLM.generate`",
    "transformers": "transformers `generate`, batches of 16",
    "ray": "Ray Data LLM's processor",
}
# Those of vLLM's CPU build do nothing on a GPU. The scripts only get the settings that they need.
_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def measure(
    folder: Path, methods: list[str], *, rounds: int, max_tokens: int
) -> dict[str, list[dict[str, Any]]]:
    """Results of each method in each round; the order rotates from round to round."""
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for number in range(rounds):
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            result = run_method(method, folder, max_tokens)
            found[method].append(result)
            rate = len(result["texts"]) / result["seconds"]
            print(f"round {number + 1}: {method} {rate:.2f} images/s", file=sys.stderr, flush=True)
    return found


def run_method(method: str, folder: Path, max_tokens: int) -> dict[str, Any]:
    """Run one method once, in a separate process."""
    command = [sys.executable, "-m", "benchmarks.caption_methods", method, str(folder)]
    done = subprocess.run(
        [*command, str(max_tokens)],
        env=os.environ | _VARIABLES,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def summarise(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Median rates, and median ratios of `d2s` to each other method, paired by round."""
    rates = {
        method: [len(result["texts"]) / result["seconds"] for result in results]
        for method, results in found.items()
    }
    texts = found["d2s"][0]["texts"]
    return {
        "images": len(texts),
        "rounds": len(rates["d2s"]),
        "machine": name_machine(),
        "methods": {
            method: {
                "rate": statistics.median(values),
                "rates": values,
                "d2s_ratio": statistics.median(
                    ours / theirs for ours, theirs in zip(rates["d2s"], values, strict=True)
                ),
                "same_texts": sum(
                    texts[name] == text for name, text in found[method][0]["texts"].items()
                ),
            }
            for method, values in rates.items()
        },
    }


def write_table(summary: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{summary['images']:,} scenes, llava-scenes, greedy, float32; {summary['machine']}; "
        f"medians of {summary['rounds']} rounds; engine start-up not included.",
        "",
        "| | images/s | `d2s caption` is | same texts |",
        "|---|---|---|---|",
    ]
    for method, row in summary["methods"].items():
        ratio = "" if method == "d2s" else f"{row['d2s_ratio']:.2f} times as fast"
        same = f"{row['same_texts']:,} of {summary['images']:,}"
        lines.append(f"| {TITLES[method]} | {row['rate']:.1f} | {ratio} | {same} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--docs", type=Path, help="folder for caption_rate.md and .json")
    settings = parser.parse_args()
    if "d2s" not in settings.methods:
        parser.error("--methods must include d2s, with which the others are compared")
    with tempfile.TemporaryDirectory() as scratch:
        scenes = Path(scratch) / "scenes"
        write_scenes(scenes, counts={"train": settings.images, "val": 1, "test": 1}, seed=0)
        found = measure(
            scenes / "train",
            settings.methods,
            rounds=settings.rounds,
            max_tokens=settings.max_tokens,
        )
    summary = summarise(found)
    table = write_table(summary)
    write_figures(
        settings.docs, "caption_rate", title="Captioning rate", text=table, figures=summary
    )


if __name__ == "__main__":
    main()
