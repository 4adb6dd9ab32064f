"""Finding or fetching weights that both transformers and vLLM can load, and their version.

Everything that can be missing is detected here, before an engine is started.
"""

import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.llava.names import ModelName
from data.environment import SHIPPED_MODELS
from data.errors import UsageError, UserError
from data.files.hashes import hash_file

_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
# Parts of a config that show that a model reads images.
_TELLING = ["config.json", "processor_config.json", "preprocessor_config.json"]
# Long enough for a slow connection, short enough for a waiting user.
_HUB_SECONDS = 10.0


@dataclass(frozen=True)
class Weights:
    """A model that can be loaded. `revision` is a commit on the Hub or a hash of the files."""

    model: str
    path: Path
    revision: str

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files; {} if it does not exist."""
        return _read_json(self.path / name)


def obtain_weights(model: ModelName, *, revision: str | None = None) -> Weights:
    """Find the weights in the folder or in the Hub's cache, or fetch them.

    Raises:
        UserError: neither on this machine nor available; says what is missing and how to get it.
    """
    found = find_weights(model, revision=revision)
    if found is not None:
        return found
    assert model.repository is not None
    return _open_snapshot(model, _fetch(model.repository, revision))


def find_weights(model: ModelName, *, revision: str | None = None) -> Weights | None:
    """The weights in the folder or in the Hub's cache; None if they would have to be fetched.

    Raises:
        UserError: what is there is not a complete model that reads images.
    """
    if model.folder is not None:
        return _open_folder(model, revision)
    assert model.repository is not None
    path = _open_cached(model.repository, revision)
    return None if path is None else _open_snapshot(model, path)


def ask_revision(model: ModelName, *, revision: str | None = None) -> str:
    """The commit that would be fetched from the Hub.

    Raises:
        UserError: it is not available; says why.
    """
    assert model.repository is not None
    return str(_ask_hub(model.repository, revision).sha)


def _open_snapshot(model: ModelName, path: Path) -> Weights:
    _check_folder(path, shown=model.name)
    # A snapshot's folder is named after its commit.
    return Weights(model.name, path, path.name)


def _open_folder(model: ModelName, revision: str | None) -> Weights:
    assert model.folder is not None
    if revision is not None:
        raise UsageError(f"--revision works with models of the Hub only; {model.name} is a folder")
    if not (model.folder / "config.json").is_file() and model.name in SHIPPED_MODELS:
        raise UserError(
            f"the weights of {model.name} are missing from this installation ({model.folder}): "
            "reinstall d2s-vse, or use another --model"
        )
    _check_folder(model.folder, shown=str(model.folder))
    return Weights(model.name, model.folder, f"sha256:{hash_folder(model.folder)}")


def hash_folder(folder: Path) -> str:
    """One hash of the names and contents of all files of a model."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() != ".md":
            total.update(f"{path.name}\0{hash_file(path)}\n".encode())
    return total.hexdigest()


def _check_folder(path: Path, *, shown: str) -> None:
    if not (path / "config.json").is_file():
        raise UserError(f"{shown} is not a model folder: it has no config.json")
    missing = _missing_weights(path)
    if missing:
        raise UserError(f"{shown} is not complete: {missing} is missing; download the model again")
    _refuse_blind(path, shown=shown)


def _refuse_blind(path: Path, *, shown: str) -> None:
    config = _read_json(path / "config.json")
    if not _looks_at_images(path, config):
        raise UsageError(
            f"{shown} does not look at images (its config.json says "
            f"{', '.join(config.get('architectures') or ()) or 'nothing of an architecture'}): use "
            "a model that does"
        )


def _looks_at_images(path: Path, config: dict[str, Any]) -> bool:
    """By its parts, not its architecture's name; T5 is a ForConditionalGeneration, too."""
    nested = _read_json(path / "processor_config.json").get("image_processor")
    processor = nested or _read_json(path / "preprocessor_config.json")
    of_images = {"image_processor_type", "image_mean"} & processor.keys()
    named = any("Llava" in name for name in config.get("architectures") or ())
    return named or config.get("vision_config") is not None or bool(of_images)


def _missing_weights(path: Path) -> str | None:
    """The first weight file that is missing (after an interrupted download)."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        names = sorted(set(_read_json(path / index).get("weight_map", {}).values()))
        if names:
            return next((name for name in names if not (path / name).is_file()), None)
    if any(entry.suffix in _WEIGHT_SUFFIXES for entry in path.iterdir() if entry.is_file()):
        return None
    return "model.safetensors"


def _open_cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repository,
            revision=revision,
            local_files_only=True,
            allow_patterns=[*_SMALL_FILES, "*.safetensors"],
        )
    except (LocalEntryNotFoundError, ValueError):
        return None
    path = Path(found)
    whole = (path / "config.json").is_file() and _missing_weights(path) is None
    return path if whole else None


def _fetch(repository: str, revision: str | None) -> Path:
    files = _ask_hub(repository, revision).siblings
    # Before gigabytes are downloaded in vain.
    _refuse_blind(_download(repository, revision, _TELLING, silent=True), shown=repository)
    safe = any(file.rfilename.endswith(".safetensors") for file in files or ())
    return _download(repository, revision, [*_SMALL_FILES, "*.safetensors" if safe else "*.bin"])


def _download(
    repository: str, revision: str | None, patterns: list[str], *, silent: bool = False
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars

    try:
        with disable_progress_bars() if silent else nullcontext():
            found = snapshot_download(repository, revision=revision, allow_patterns=patterns)
        return Path(found)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"fetching {repository} stopped ({_name(error)}): run the same command again, what was "
            f"fetched is kept; or {_say_how(repository)}"
        ) from error


def _ask_hub(repository: str, revision: str | None) -> Any:
    """Ask the Hub once, without retries, whether the model is available, and which files it has."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    how = _say_how(repository)
    if constants.is_offline_mode():
        raise UserError(
            f"the weights of {repository} are not in the cache and HF_HUB_OFFLINE is set: {how}"
        )
    try:
        return HfApi().model_info(repository, revision=revision, timeout=_HUB_SECONDS)
    except GatedRepoError as error:
        raise UserError(
            f"{repository} is gated: accept its terms on the Hub, then set HF_TOKEN or run "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repository} has no revision {revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"the Hub has no model {repository}, or you have no access: check its name, and set "
            "HF_TOKEN if it is private"
        ) from error
    except Exception as error:
        # Any network error, of any HTTP library: the remedy is the same.
        raise UserError(
            f"the weights of {repository} are not in the cache and the Hub cannot be reached "
            f"({_name(error)}): {how}"
        ) from error


def _say_how(repository: str) -> str:
    return (
        f"fetch them where there is a network with `hf download {repository}`, and let HF_HOME "
        "name the folder that holds the cache"
    )


def _name(error: Exception) -> str:
    text = " ".join(str(error).split())
    token = os.environ.get("HF_TOKEN")
    if token:
        text = text.replace(token, "***")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}
