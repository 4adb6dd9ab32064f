"""Converting a checkpoint of the released code to the folder of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError, one_line
from data.files.hashes import hash_file
from data.settings.yaml_files import merge
from vse.model.build import count_weights, rebuild
from vse.model.d2s import D2SModel
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.choice import load_pretrained
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.recipes.files import read_recipe, resolve
from vse.released.architecture import describe_weights
from vse.released.checkpoint import ReleasedCheckpoint, read_checkpoint
from vse.released.keys import our_key
from vse.released.options import hub_name, settings_of, stage_of
from vse.runs.config import CONFIG, FORMAT, MODEL, TOKENIZER, fixed_settings, list_versions
from vse.sharing.package import save_files

BERT = "bert-base-uncased"  # the only one that the released code uses
_BASE_SIZES = ({"hidden_size": 768, "num_hidden_layers": 12}, {"depths": [2, 2, 18, 2]})


@dataclass(frozen=True)
class ReleasedRun:
    """A converted checkpoint, ready to be written; `notes` list assumptions."""

    model: D2SModel
    tokenizer: TextTokenizer
    config: dict[str, Any]
    notes: tuple[str, ...]


def prepare_run(path: Path, *, tokenizer: TextTokenizer, px: int | None = None) -> ReleasedRun:
    """Read a checkpoint of stage 1 or 2 without executing anything in it.

    Args:
        px: side of the input, if it is not in the checkpoint.

    Raises:
        UserError: not such a checkpoint, or a tokenizer with another vocabulary.
    """
    checkpoint = read_checkpoint(path)
    recorded = (checkpoint.options or {}).get("img_res", px)
    if px not in (None, recorded):
        raise UserError(f"{path} records an input size of {recorded} px, not {px}: omit --px")
    resolved = _resolve(checkpoint, px=px)
    description, recipe = resolved["model"], resolved["recipe"]
    try:
        weights = {our_key(key): value for key, value in checkpoint.weights.items()}
        model = rebuild(description)
        model.load_state_dict({key: value for key, value in weights.items() if key is not None})
    except (UserError, RuntimeError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise UserError(
            f"{path} does not contain a model of the released code: {reason}"
        ) from error
    _check_vocabulary(description["text"]["backbone"], tokenizer)
    sha = hash_file(path)
    config = {
        "format": FORMAT,
        **resolved,
        "data": {"split_counts": None},
        "init": None,
        "weights": count_weights(model),
        "versions": list_versions(),
        "converted": {"from": path.name, "sha256": sha, **checkpoint.numbers},
        "fingerprint": {
            "stage": resolved["stage"],
            "recipe": fixed_settings(recipe),
            "converted": sha[:16],
        },
    }
    return ReleasedRun(model, tokenizer, config, _notes(checkpoint, description))


def write_run(run: ReleasedRun, out: Path) -> None:
    """Write the folder; config.json comes last.

    Raises:
        UserError: it already contains a run.
    """
    check_free(out)
    out.mkdir(parents=True, exist_ok=True)
    save_files(out, run.model, run.tokenizer, run.config)


def find_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of a run's folder, of a folder with a tokenizer.json, or of a hub model.

    Raises:
        UserError: it is not available.
    """
    for folder in (Path(name) / TOKENIZER, Path(name)):
        # A model's own folder has additional files, which transformers reads.
        if (folder / "tokenizer.json").is_file() and not (folder / "config.json").is_file():
            return tokenizers.load(folder)
    try:
        return load_pretrained(name)
    except UserError as error:
        raise UserError(
            f"the tokenizer of {name} is not available: run `hf download {name}` where there is a "
            "network, or use --tokenizer with a folder that contains its tokenizer.json"
        ) from error


def check_free(out: Path) -> None:
    """UserError if there is a run in the folder."""
    if any((out / name).exists() for name in (CONFIG, MODEL)):
        raise UserError(f"{out} contains a run: use another --out")


def _resolve(checkpoint: ReleasedCheckpoint, *, px: int | None) -> dict[str, Any]:
    """stage, model (its description), recipe and recipe_raw of config.json."""
    options = checkpoint.options or {}
    shapes = {key: tuple(value.shape) for key, value in checkpoint.weights.items()}
    decoder = any(key.startswith("prompt_learner.") for key in shapes)
    stage = stage_of(checkpoint.options, decoder=decoder)
    given = settings_of(options)
    if not decoder:
        # Stage 1 has none: its command line contains the parser's defaults.
        given.pop("decoder", None)
    raw = merge(read_recipe("released"), given)
    if px is not None and "img_res" not in options:
        raw = merge(raw, {"image": {"px": px}})
    before = resolve(raw, stage=stage)
    description = describe_weights(
        shapes,
        px=before.image.px,
        dropout=before.text.dropout,
        residual=before.decoder.residual,
        heads=before.decoder.heads,
    )
    raw = _with_towers(raw, description, hub_name(options))
    recipe = resolve(raw, stage=stage).to_dict()
    return {"stage": stage, "model": description, "recipe": recipe, "recipe_raw": raw}


def _with_towers(
    raw: Mapping[str, Any], description: Mapping[str, Any], name: str | None
) -> dict[str, Any]:
    """The recipe with exactly these towers, by their public names if they match."""
    image, text = description["image"]["backbone"], description["text"]["backbone"]
    bert = "bert-base-uncased" if text["vocab_size"] == 30522 and _is_base(text) else None
    if name is None or not _is_base(image):
        name = None
    towers = {
        "image": {"name": name, "config": None if name else image},
        "text": {
            "name": bert,
            "config": None if bert else text,
            "max_tokens": description["text"]["max_tokens"],
        },
        "width": description["width"],
    }
    if description["decoder"] is not None:
        towers["decoder"] = description["decoder"]
    return merge(raw, towers)


def _is_base(backbone: Mapping[str, Any]) -> bool:
    return any(all(backbone.get(k) == v for k, v in size.items()) for size in _BASE_SIZES)


def _check_vocabulary(text: Mapping[str, Any], tokenizer: TextTokenizer) -> None:
    if text["vocab_size"] != tokenizer.vocab_size:
        raise UserError(
            f"the text tower knows {text['vocab_size']} tokens, but the tokenizer "
            f"{tokenizer.vocab_size}: specify the right one with --tokenizer"
        )


def _notes(checkpoint: ReleasedCheckpoint, description: Mapping[str, Any]) -> tuple[str, ...]:
    options, px = checkpoint.options, description["image"]["px"]
    notes = []
    if options is None or "img_res" not in options:
        notes.append(f"the checkpoint does not record its input size: assuming {px} px")
    if description["decoder"] is not None and (options is None or "no_res_embed" not in options):
        notes.append("the checkpoint does not record how t and r are combined: assuming t + r")
    if "best_rsum" in checkpoint.numbers:
        best = checkpoint.numbers["best_rsum"]
        notes.append(
            f"best rSum {best:.1f} according to the checkpoint, on the split that selected its "
            "epoch"
        )
    return tuple(notes)
