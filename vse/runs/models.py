"""Finding trained models in a folder or on the Hugging Face Hub, and identifying them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import UserError, one_line
from data.files.hashes import hash_file
from vse.runs.config import CONFIG, MODEL, RUNS, TOKENIZER, read_config

# Usual names of pickled weights, which are never read because loading one can run code.
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar"})
_WANTED = (CONFIG, MODEL, f"{TOKENIZER}/*")


def find_model(path_or_repo: str | Path, **options: Any) -> Path:
    """The folder of a model; of a model on the Hub, only its three parts are downloaded.

    Args:
        options: as for `huggingface_hub.snapshot_download`: revision, token, ...

    Raises:
        UserError: no such folder or repository, or one without safetensors.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        check_weights(str(folder), (entry.name for entry in os.scandir(folder)))
        return folder
    name = str(path_or_repo)
    # runs/stage2, the default, is a folder even where it does not exist.
    local = folder.parts[0] == RUNS["2"].parts[0] if folder.parts else True
    if local or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is None:
        raise missing_model(name, "there is no such folder")
    return _fetch(name, options)


def check_weights(where: str, names: Iterable[str]) -> None:
    """UserError if there are pickled weights among the files and none in safetensors."""
    found = list(names)
    pickles = sorted(name for name in found if PurePosixPath(name).suffix in PICKLES)
    if pickles and MODEL not in found:
        raise UserError(
            f"{where} has pickled weights ({pickles[0]}) but no {MODEL}: reading a pickle can run "
            "code, so it is not read; ask for safetensors, or convert it with `d2s convert` if it "
            "is from the code released with the paper"
        )


def _fetch(name: str, options: dict[str, Any]) -> Path:
    # Not at the top: loading from a folder does not need it.
    import httpx2
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import logging

    nowhere = "there is no such folder, "
    verbosity = logging.get_verbosity()
    # It warns about repositories without these files; `_look_for_pickles` gives the reason.
    logging.set_verbosity_error()
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_WANTED), **options))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: request access on its page, then set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision {options.get('revision')!r}") from error
    except errors.RepositoryNotFoundError as error:
        reason = nowhere + "nor a repository on the Hub that you can read"
        raise missing_model(name, reason) from error
    except (errors.OfflineModeIsEnabled, errors.EntryNotFoundError) as error:
        reason = nowhere + "it is not in the Hub's cache, and the Hub cannot be reached"
        raise missing_model(name, reason) from error
    except (httpx2.HTTPError, OSError) as error:
        text = one_line(error)
        raise UserError(f"{name} cannot be fetched from the Hub: {text}") from error
    finally:
        logging.set_verbosity(verbosity)
    if not (folder / MODEL).is_file():
        _look_for_pickles(name, options)
    return folder


def _look_for_pickles(name: str, options: dict[str, Any]) -> None:
    import httpx2
    from huggingface_hub import HfApi, errors

    try:
        asked = {key: options[key] for key in ("revision", "token") if key in options}
        names = HfApi().list_repo_files(name, **asked)
    except (httpx2.HTTPError, errors.OfflineModeIsEnabled):
        # This only adds detail about missing weights, which the loader reports anyway.
        return
    check_weights(name, names)


def missing_model(name: str, why: str) -> UserError:
    """The error if there is no trained model."""
    return UserError(
        f"{name} contains no trained model ({why}): train one with `d2s train`, or specify the "
        "folder of one"
    )


@dataclass(frozen=True)
class ModelIdentity:
    """`name` is the user's name for it.

    `fingerprint` covers everything that affects embeddings: the weights, the architecture with its
    input size, and the tokenizer.
    """

    name: str
    weights_sha256: str
    fingerprint: str
    px: int
    width: int


def identify_model(folder: Path, *, name: str) -> ModelIdentity:
    """Read and hash a model's files.

    Raises:
        UserError: the folder contains no trained model.
    """
    config = read_config(folder)
    weights, tokenizer = folder / MODEL, folder / TOKENIZER
    if config is None or not weights.is_file() or not tokenizer.is_dir():
        raise missing_model(name, f"{CONFIG}, {MODEL} and {TOKENIZER}/ are not all present")
    try:
        px, width = int(config["model"]["image"]["px"]), int(config["model"]["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} does not describe a model: {error}") from error
    weights_sha256 = hash_file(weights)
    about = json.dumps(config["model"], sort_keys=True)
    fingerprint = hash_model(weights_sha256, tokenizer.glob("*.json"), about=about)
    return ModelIdentity(name, weights_sha256, fingerprint, px, width)


def hash_model(weights_sha256: str, files: Iterable[Path], *, about: str = "") -> str:
    """A fingerprint of weights, other files and a description."""
    whole = hashlib.sha256(f"{weights_sha256}\n{about}".encode())
    for path in sorted(files):
        whole.update(f"\n{path.name} {hash_file(path)}".encode())
    return whole.hexdigest()
