"""The gain of dense text for several sizes of the training set, over several seeds.

    python -m pipelines.experiments.dense_gap --docs docs/experiments

One world, captioned once by llava-scenes through vLLM; the training sets are its first 500, 1,000
and 4,000 images; seeds vary the weights, the order, the sampled captions and the augmentation. Each
comparison runs the commands of the demo: stages 1 and 2 versus sparse captions only, with equal
steps and the same 500 test images. Each takes about as long as the demo's training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.environment import count_cores
from data.errors import UserError
from data.files.atomic import replace_whole, write_json
from pipelines.console.command_line import print_text, say
from pipelines.experiments.baseline import (
    COMPARED,
    caption_scenes,
    evaluate_both,
    make_scenes,
    train_both,
)
from pipelines.experiments.demo import measure_captions, read_metrics
from pipelines.experiments.document import name_column
from pipelines.experiments.results import spread
from pipelines.workflow.jobs import Job, run_jobs
from pipelines.workflow.steps import Workflow
from vse.evaluation.results import RECALLS
from vse.runs.folder import last_step, read_log

VAL, TEST = 200, 500


def run_experiment(
    *, out: Path, sizes: Sequence[int], seeds: Sequence[int], steps: int | None, workers: int
) -> dict[str, Any]:
    """Run what is missing and return all comparisons with a summary; resumable like the demo."""
    workflow = Workflow(out, settings={"sizes": list(sizes), "steps": steps, "world_seed": 0})
    workflow.run(make_scenes(train=max(sizes), val=VAL, test=TEST, seed=0))
    workflow.run(caption_scenes(seed=0))
    for size in sizes:
        write_subset(out, size)
    jobs = [make_job(size, seed, steps=steps) for seed in seeds for size in sizes]
    failed = run_jobs(workflow, jobs, workers=workers)
    if failed:
        raise UserError(next(iter(failed.values())))
    return collect(out, sizes=sizes, seeds=seeds)


def write_subset(out: Path, size: int) -> None:
    """captions-SIZE.json: the Karpathy file with only the first `size` training images."""
    dataset = json.loads((out / "scenes" / "dataset_scenes.json").read_text())
    train = [image for image in dataset["images"] if image["split"] == "train"][:size]
    rest = [image for image in dataset["images"] if image["split"] != "train"]
    write_json(out / f"captions-{size}.json", {**dataset, "images": train + rest})


def make_job(size: int, seed: int, *, steps: int | None) -> Job:
    """Both trainings of one size and seed, one after the other, on one thread."""
    label = f"{size} images, seed {seed}: "
    runs = name_runs(size, seed)
    dense, sparse = train_both(
        steps=steps,
        seed=seed,
        threads=1,
        runs=runs,
        captions=f"captions-{size}.json",
        label=label,
    )
    return Job(runs, (*dense, *sparse, *evaluate_both(runs=runs, label=label)))


def name_runs(size: int, seed: int) -> str:
    """The folder of a comparison's three runs."""
    return f"runs/{size}-images-seed-{seed}"


def collect(out: Path, *, sizes: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
    """Read the figures of all comparisons; mean and deviation over the seeds of each size."""
    compared = []
    for size in sizes:
        for seed in seeds:
            folder = out / name_runs(size, seed)
            one: dict[str, Any] = {"size": size, "seed": seed}
            for name, run in COMPARED:
                metrics = read_metrics(folder / run)
                one[name] = {key: metrics[key] for key in RECALLS}
            compared.append(one)
    figures = json.loads((out / "scenes" / "figures.json").read_text())
    return {
        "steps": {
            run: last_step(read_log(out / name_runs(sizes[0], seeds[0]) / run))
            for run in ("stage1", "stage2", "sparse")
        },
        "seeds": list(seeds),
        "comparisons": compared,
        "summary": [summarise(compared, size) for size in sizes],
        "captioner": measure_captions(out),
        "oracle": figures["oracle"],
    }


def summarise(compared: Iterable[dict[str, Any]], size: int) -> dict[str, Any]:
    """Mean and sample deviation of rSum for both and for their difference, at one size."""
    own = [one for one in compared if one["size"] == size]
    gaps = [one["dense_to_sparse"]["rsum"] - one["sparse_only"]["rsum"] for one in own]
    found: dict[str, Any] = {"size": size, "gap": spread(gaps)}
    for name, _ in COMPARED:
        found[name] = spread([one[name]["rsum"] for one in own])
    return found


def write_table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| training images | sparse only | dense to sparse | gap |",
        "|---|---|---|---|",
    ]
    for row in found["summary"]:
        cells = [
            f"{row[key]['mean']:{sign}.1f} ± {row[key]['sd']:.1f}"
            for key, sign in (("sparse_only", ""), ("dense_to_sparse", ""), ("gap", "+"))
        ]
        lines.append(f"| {row['size']:,} | {' | '.join(cells)} |")
    lines += [
        "",
        "| images | seed | trained on | " + " | ".join(map(name_column, RECALLS)) + " |",
    ]
    lines.append("|" + "---|" * (3 + len(RECALLS)))
    for one in found["comparisons"]:
        for name, _ in COMPARED:
            values = " | ".join(f"{one[name][key]:.1f}" for key in RECALLS)
            lines.append(
                f"| {one['size']:,} | {one['seed']} | {name.replace('_', ' ')} | {values} |"
            )
    return "\n".join(lines) + "\n"


def write_document(found: dict[str, Any], folder: Path) -> None:
    """dense_gap.json and dense_gap.md for the docs; every figure comes from `found`."""
    oracle, captioner, steps = found["oracle"], found["captioner"], found["steps"]
    text = (
        "# Gain of dense text by size of the training set\n\n"
        "Written by `python -m pipelines.experiments.dense_gap --docs docs/experiments`.\n\n"
        f"rSum on {oracle['images']} test images with {oracle['captions']:,} sparse captions: mean "
        f"± sample standard deviation over {len(found['seeds'])} seeds. Dense to sparse: "
        f"{steps['stage1']} steps in stage 1 and {steps['stage2']} in stage 2; sparse only: "
        f"{steps['sparse']:,} steps. The dense text is by llava-scenes through vLLM: "
        f"{100 * captioner['true']:.1f} % of its statements are true, and they cover "
        f"{100 * captioner['told']:.1f} % of the facts. Upper bound of R@1: "
        f"I2T {oracle['i2t_r1']:.1f}, T2I {oracle['t2i_r1']:.1f}.\n\n" + write_table(found)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dense_gap.json", found)
    with replace_whole(folder / "dense_gap.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts/dense_gap"))
    parser.add_argument("--docs", type=Path, help="folder for dense_gap.md and dense_gap.json")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 4000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each of the two; by default the recipe's")
    parser.add_argument("--workers", type=int, default=count_cores())
    settings = parser.parse_args()
    try:
        found = run_experiment(
            out=settings.out,
            sizes=settings.sizes,
            seeds=settings.seeds,
            steps=settings.steps,
            workers=settings.workers,
        )
    except UserError as error:
        say(f"dense_gap: error: {error}")
        raise SystemExit(error.exit_code) from error
    write_json(settings.out / "results.json", found)
    if settings.docs:
        write_document(found, settings.docs)
    print_text(write_table(found))


if __name__ == "__main__":
    main()
