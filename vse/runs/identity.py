"""Which model an embedding is of, told from its files without loading it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.files.hashes import hash_file
from vse.runs.checkpoint_names import CONFIG, MODEL, TOKENIZER
from vse.runs.config import read_config


@dataclass(frozen=True)
class ModelIdentity:
    """`name` is how the user calls it. `fingerprint` covers all that decides an embedding: the
    weights, the architecture with the size of its input, and the tokenizer.
    """

    name: str
    weights_sha256: str
    fingerprint: str
    px: int
    width: int


def identify_model(folder: Path, *, name: str) -> ModelIdentity:
    """Read and hash a model's files.

    Raises:
        UserError: the folder holds no trained model.
    """
    config = read_config(folder)
    weights, tokenizer = folder / MODEL, folder / TOKENIZER
    if config is None or not weights.is_file() or not tokenizer.is_dir():
        raise UserError(
            f"{name} holds no trained model ({CONFIG}, {MODEL} and {TOKENIZER}/): "
            "train one with `d2s train`, or name its folder with --model"
        )
    try:
        px, width = int(config["model"]["image"]["px"]), int(config["model"]["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} does not describe a model: {error}") from error
    weights_sha256 = hash_file(weights)
    whole = hashlib.sha256(f"{weights_sha256}\n".encode())
    whole.update(json.dumps(config["model"], sort_keys=True).encode())
    for path in sorted(tokenizer.glob("*.json")):
        whole.update(f"\n{path.name} {hash_file(path)}".encode())
    return ModelIdentity(name, weights_sha256, whole.hexdigest(), px, width)
