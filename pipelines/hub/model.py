"""A trained model as a tree: the files of its run, recipes, and a card."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from captioner.imports.run import ENGINE as IMPORTED
from data.dense.run import read_run
from data.errors import UserError
from data.escaping import drop_folder
from data.files.atomic import to_json
from data.files.hashes import hash_file
from pipelines.hub.seeds import measure_seeds
from pipelines.hub.tree import Tree, make_tree
from vse.embedders.embedder import load_embedder
from vse.evaluation.results import read_results
from vse.runs.config import CONFIG, LOG, MODEL, PREPROCESSING, RUNS, TOKENIZER, read_config
from vse.runs.folder import RunFolder
from vse.runs.models import find_model
from vse.sharing.card import Measured, write_card
from vse.sharing.package import describe_preprocessing, strip_config

Say = Callable[[str], None]


def make_model_tree(
    folder: Path,
    *,
    repo: str,
    licence: str,
    seed_runs: Sequence[Path] = (),
    datasets: Sequence[str] = (),
    say: Say,
) -> Tree:
    """The files of a finished run for sharing, and a card generated from its records.

    Args:
        seed_runs: runs of the same recipe and data with other seeds, for means and deviations.
        datasets: Hub names of its training data.
        say: called with notes about what is left out.

    Raises:
        UserError: no finished run, no safetensors, or runs that differ in more than their seed.
    """
    config = read_finished(folder, say)
    embedder = load_embedder(folder, device="cpu")
    results = read_results(folder)
    for note in results.notes:
        say(note)
    if not results.found:
        say(
            "the card will have no results: measure them with `d2s evaluate --model "
            f"{shlex.quote(str(folder))}`"
        )
    spreads = measure_seeds(folder, results.found, seed_runs)
    measured = [Measured(found, spreads.get(key)) for key, found in results.found.items()]
    recipes, commands = _write_recipes(config, say)
    about = describe_preprocessing(embedder.model, embedder.tokenizer, config["model"])
    files: dict[str, bytes | Path] = {
        CONFIG: to_json(strip_config(config)),
        MODEL: folder / MODEL,
        PREPROCESSING: to_json(about),
        **{f"{TOKENIZER}/{p.name}": p for p in sorted((folder / TOKENIZER).glob("*.json"))},
        **recipes,
    }
    card = write_card(
        strip_config(config),
        measured,
        repo=repo,
        licence=licence,
        datasets=datasets,
        dense=_describe_dense(config),
        commands=commands,
    )
    return make_tree(files, readme=card)


def read_finished(folder: Path, say: Say) -> dict[str, Any]:
    """config.json of a finished run.

    Raises:
        UserError: there is none, it is unfinished, or its weights are a pickle.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: specify the folder of a training run")
    find_model(folder)
    config = read_config(folder)
    if config is None:
        raise UserError(
            f"{folder} contains no trained model (no {CONFIG}): specify the folder of a training "
            "run"
        )
    done = RunFolder(folder).read_progress()
    if done is not None and not done.finished:
        raise UserError(
            f"the run in {folder} is not finished (step {done.step}): run its `d2s train` command "
            "again, or save its best model so far elsewhere "
            "(vse.load(...).save_pretrained(FOLDER)) and publish that"
        )
    if done is None and (folder / LOG).exists():
        raise UserError(f"the run in {folder} did not finish: run its `d2s train` command again")
    if done is None:
        say(
            f"{folder} is a saved model, not a training run: it does not record whether training "
            "finished")  # fmt: skip
    return config


def _write_recipes(config: Mapping[str, Any], say: Say) -> tuple[dict[str, bytes], list[str]]:
    """Every setting of each stage as a file, and the commands that read them."""
    stage = str(config["stage"])
    runs, origin = {stage: config}, "STAGE1"
    if stage == "2":
        first = _read_first_stage(config)
        if first is None:
            say("the stage 1 that it started from is no longer here: the card omits its command")
        else:
            runs = {str(first["stage"]): first, **runs}
            origin = str(RUNS[str(first["stage"])])
    files, commands = {}, []
    for name, one in runs.items():
        recipe = strip_config(one).get("recipe")
        if not recipe:
            continue
        file = f"recipe-{RUNS[name].name}.yaml"
        head = f"# All settings of a run of `d2s train --stage {name}`.\n"
        body = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=100)
        files[file] = (head + body).encode()
        words = ["d2s", "train", "--stage", name, "--recipe", file, "--images", "IMAGES"]
        # Refused where a text by a model is the sparse side.
        captioned = not (one.get("data") or {}).get("sparse_side")
        words += ["--captions", "CAPTIONS"] if captioned else []
        words += ["--dense", "DENSE"] if name != "sparse" else []
        words += ["--init", origin] if name == "2" else []
        commands.append(shlex.join(words))
    return files, commands


def _read_first_stage(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """config.json of the stage 1 from which a stage 2 started, if it is unchanged."""
    place = config.get("init")
    if not place or not (Path(place) / MODEL).is_file():
        return None
    if hash_file(Path(place) / MODEL)[:16] != config["fingerprint"].get("init"):
        return None
    return read_config(Path(place))


def _describe_dense(config: Mapping[str, Any]) -> str | None:
    """The captioner of the dense text, if its run still exists."""
    fingerprint = config["fingerprint"].get("dense")
    place = (config.get("data") or {}).get("dense")
    try:
        run = read_run(Path(place)) if place else {}
    except UserError:
        run = {}
    if run.get("fingerprint") != fingerprint:
        # It was replaced by another run.
        run = {}
    model = str(run.get("model") or "")
    writer = f"by {drop_folder(model)}" if model else ""
    imported = (run.get("settings") or {}).get("engine") == IMPORTED
    command = ("d2s import" if imported else "d2s caption") if run else ""
    if isinstance(fingerprint, Mapping):
        fingerprint = ", ".join(f"{name} {each}" for name, each in fingerprint.items())
    called = f"run {fingerprint}" if fingerprint else ""
    return ", ".join(part for part in (writer, command, called) if part) or None
