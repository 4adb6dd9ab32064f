"""The model that made an index: queries are embedded by no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from vse.search.index import Index


def find_indexed_model(indexes: Sequence[Index], model: str | None) -> Path:
    """The folder of the model that made all of some indexes; `model` where it is now.

    Raises:
        UserError: it is not here, or one of the indexes was made by another.
    """
    from vse.runs.identity import identify_model
    from vse.runs.models import find_model

    name = model or indexes[0].info.model
    try:
        folder = find_model(name)
        identity = identify_model(folder, name=name)
    except UserError as error:
        if model is not None:
            raise
        raise UserError(
            f"{indexes[0].path} was made by the model {name}, which is not here: name it with "
            "--model"
        ) from error
    for index in indexes:
        index.check_model(identity)
    return folder
