"""CLIPScore of a dense text, sentence by sentence (Hessel et al., 2021; arXiv 2104.08718).

    CLIPScore(image, sentence) = 2.5 * max(cos(image, "A photo depicts " + sentence), 0)

CLIP reads 77 tokens, fewer than a dense text has, so each sentence is scored. A text's score is the
mean; its worst sentence is a good place to look for hallucinations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from captioner.score.clip_model import ClipEncoder
from data.images import MAX_IMAGE_PIXELS, ImageError, decode_image
from data.sparse.sentences import split_sentences

if TYPE_CHECKING:
    import torch

PROMPT = "A photo depicts "
WEIGHT = 2.5

CLIP_SCHEMA = pa.schema(
    [
        # The mean over the sentences; null if there is no text or no image.
        pa.field("clipscore", pa.float32()),
        # The score of the worst sentence, and the sentence.
        pa.field("clipscore_min", pa.float32()),
        pa.field("worst_sentence", pa.string()),
        pa.field("sentences", pa.int32()),
        # Number of sentences that were too long for the model and were cut.
        pa.field("cut_sentences", pa.int32()),
        # Why a text has no score.
        pa.field("clip_error", pa.string()),
    ]
)


@dataclass(frozen=True)
class ClipScore:
    """The scores of one text; see CLIP_SCHEMA."""

    clipscore: float | None = None
    clipscore_min: float | None = None
    worst_sentence: str | None = None
    sentences: int | None = None
    cut_sentences: int | None = None
    clip_error: str | None = None

    def to_row(self) -> dict[str, Any]:
        """As a row of CLIP_SCHEMA."""
        return {column.name: getattr(self, column.name) for column in fields(self)}


@dataclass(frozen=True)
class ScoreTask:
    """One text, and a function that reads the bytes of its image and can raise ImageError."""

    text: str | None
    read_image: Callable[[], bytes]


def score_texts(
    encoder: ClipEncoder,
    tasks: Sequence[ScoreTask],
    *,
    batch_size: int,
    workers: int,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Iterator[ClipScore]:
    """One score per task, in order. Each image is decoded once, in threads, a batch ahead.

    An image of more than `max_pixels` has an error instead.

    A task without a text has no score and no error, and its image is not read.
    """
    batches = [tasks[start : start + batch_size] for start in range(0, len(tasks), batch_size)]
    with ThreadPoolExecutor(workers) as pool:

        def begin(number: int) -> list[Any]:
            chosen = batches[number] if number < len(batches) else ()
            return [pool.submit(_prepare, encoder, task, max_pixels) for task in chosen]

        waiting = begin(0)
        for number, batch in enumerate(batches):
            following = begin(number + 1)
            yield from _score_batch(encoder, batch, [future.result() for future in waiting])
            waiting = following


def _prepare(encoder: ClipEncoder, task: ScoreTask, max_pixels: int) -> torch.Tensor | str | None:
    """The preprocessed image (3, H, W), or its error; None without a text."""
    if task.text is None or not task.text.strip():
        return None
    try:
        return encoder.preprocess(decode_image(task.read_image(), max_pixels=max_pixels))
    except ImageError as error:
        return str(error)


def _score_batch(
    encoder: ClipEncoder, tasks: Sequence[ScoreTask], prepared: Sequence[torch.Tensor | str | None]
) -> list[ClipScore]:
    import torch

    pixels = [image for image in prepared if isinstance(image, torch.Tensor)]
    images = iter(encoder.encode_images(torch.stack(pixels)) if pixels else ())
    sentences = [
        split_sentences(task.text or "") if isinstance(image, torch.Tensor) else []
        for task, image in zip(tasks, prepared, strict=True)
    ]
    spoken = [PROMPT + sentence for of_text in sentences for sentence in of_text]
    vectors, cut = encoder.encode_texts(spoken) if spoken else (torch.empty(0), torch.empty(0))
    scores, at = [], 0
    for image, of_text in zip(prepared, sentences, strict=True):
        if not isinstance(image, torch.Tensor):
            scores.append(ClipScore(clip_error=image))
            continue
        part = slice(at, at + len(of_text))
        at += len(of_text)
        values = WEIGHT * (vectors[part] @ next(images)).clamp(min=0)
        scores.append(_summarise(of_text, values.tolist(), int(cut[part].sum())))
    return scores


def _summarise(sentences: Sequence[str], values: Sequence[float], cut: int) -> ClipScore:
    worst = min(range(len(values)), key=values.__getitem__)
    return ClipScore(
        clipscore=sum(values) / len(values),
        clipscore_min=values[worst],
        worst_sentence=sentences[worst],
        sentences=len(values),
        cut_sentences=cut,
    )
