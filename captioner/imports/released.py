"""The dense text of the released D2S-VSE code: one line an image, in the order of an ids file."""

from pathlib import Path

from captioner.imports.texts import ImportedText, TextSource, make_text
from data.errors import UserError
from data.sparse.released import ImageIds, find_lost_metadata, read_dense_lines


def read_released(path: Path, ids: ImageIds) -> TextSource:
    """The texts of a `{dataset}_{split}.jsonl`, each with the id that stands in its place.

    Raises:
        UserError: a line that cannot be read, or not one line for each id.
    """
    lines = read_dense_lines(path)
    if len(lines) != len(ids.ids):
        raise UserError(
            f"{path} has {len(lines):,} lines and {ids.path} {len(ids.ids):,} ids: they belong "
            "together line by line, so give the ids file of this very split"
        )
    texts: list[ImportedText] = [
        make_text(f"line {number}", line.text, image_id=name)
        for number, (line, name) in enumerate(zip(lines, ids.ids, strict=True), start=1)
    ]
    lost = find_lost_metadata(lines)
    notes = []
    if lost:
        notes.append(
            f"{len(lost):,} lines have metadata that is not the length of their text, line "
            f"{lost[0]} first: it is left out"
        )
    return TextSource(
        name=path.name,
        format="d2s-jsonl",
        texts=texts,
        models=frozenset(line.model_id for line in lines if line.model_id),
        notes=tuple(notes),
        ordered=True,
    )
