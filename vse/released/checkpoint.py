"""Reading the released code's files: `torch.save` of weights, a Namespace and three numbers."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import UserError, first_line
from vse.released.keys import strip_module

NUMBERS = ("epoch", "best_rsum", "Eiters")


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """weights: under their released names, without `module.`. options: the command line of the
    training, None where the file has none. numbers: epoch, best_rsum, Eiters, as far as given.
    """

    weights: dict[str, Tensor]
    options: dict[str, Any] | None = None
    numbers: dict[str, float] = field(default_factory=dict)


def read_checkpoint(path: Path) -> ReleasedCheckpoint:
    """Read a `.pth` of the released code, or one with only its weights.

    Nothing in the file is executed: only tensors, plain values and a Namespace are created.

    Raises:
        UserError: no such file, a damaged file, or one with other content.
    """
    find_checkpoint(path)
    try:
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(),
        ):
            # Silence torch's warnings about unusual pickles; our error is enough.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # malicious or damaged files can raise anything
        raise UserError(_explain(path, error)) from error
    return _sort_out(path, content)


def find_checkpoint(path: Path) -> None:
    """UserError if there is no such file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: specify a checkpoint of the released code (.pth)")


def _sort_out(path: Path, content: Any) -> ReleasedCheckpoint:
    if not isinstance(content, Mapping):
        raise UserError(f"{path} contains no weights, but a {type(content).__name__}")
    weights = content.get("model", content)
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f"{path} contains no weights under 'model'")
    for key, value in weights.items():
        if not isinstance(key, str):
            raise UserError(f"{path} has a weight whose name is not text ({key!r})")
        if not isinstance(value, Tensor):
            raise UserError(f"{path} has a {type(value).__name__} among its weights ({key})")
    weights = strip_module(weights)
    options = content.get("opt")
    numbers = {key: content[key] for key in NUMBERS if isinstance(content.get(key), int | float)}
    known = vars(options) if isinstance(options, argparse.Namespace) else None
    return ReleasedCheckpoint(weights, known, numbers)


def _explain(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return (
            f"{path} asks for {found[1]} when it is read, but reading must not run code: only "
            "tensors, plain values and an argparse.Namespace are allowed; get it from its authors, "
            "or save only its weights where it is trusted"
        )
    first = first_line(error)
    return f"{path} cannot be read as a checkpoint of torch.save: {first[:200]}"
