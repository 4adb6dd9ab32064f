"""The dry run: whether a run can be executed here, and what it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from data.environment import ask_server
from data.errors import UserError
from vse.model.backbones.origins import list_origins
from vse.model.tokenizer.choice import check_tokenizer, choose_tokenizer
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.recipes import Recipe
from vse.runs.config import TOKENIZER
from vse.samples.augmentation import sample_sentences
from vse.samples.corpus import Corpus, Sample, list_texts, split_dense
from vse.training.forecast.step import StepForecast, device_memory, forecast_step, pick_lengths
from vse.training.spec import Length, measure_length

LOOKED_AT = 2000  # of the training texts
TIMEOUT = 5.0  # seconds to wait for the Hub
# Without the tokenizer: word pieces per word of English prose, and [CLS] and [SEP].
PIECES, ENDS = 1.3, 2


@dataclass(frozen=True)
class TextLengths:
    """Token counts of one kind of texts before cutting. `cut`: the share longer than `limit`."""

    kind: str
    total: int
    lengths: tuple[int, ...]
    limit: int
    guessed: bool  # estimated from the number of words

    @property
    def cut(self) -> float:
        return float(np.mean([length > self.limit for length in self.lengths]))


@dataclass(frozen=True)
class RunForecast:
    """The needs of a stage. `problems` would stop it; `notes` would not.

    disk: bytes that it writes; free: bytes on that disk. gpu: name and bytes, None without one.
    """

    stage: str
    length: Length
    step: StepForecast | None
    texts: tuple[TextLengths, ...]
    disk: int
    free: int
    processes: int
    gpu: tuple[str, int] | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        step = self.step
        return {
            "steps_per_epoch": self.length.steps_per_epoch,
            "weights": None if step is None else step.weights,
            "memory": None if step is None else {**step.memory, "peak": step.peak},
            "flops_per_step": None if step is None else step.flops,
            "texts_cut": {texts.kind: texts.cut for texts in self.texts},
            "disk_needed": self.disk,
            "disk_free": self.free,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def forecast_run(
    recipe: Recipe,
    *,
    stage: str,
    corpus: Corpus,
    out: Path,
    init: Path | None = None,
    processes: int = 1,
) -> RunForecast:
    """Check data, weights, memory and disk for one stage; trains nothing and writes nothing.

    The Hub is asked once. If it does not answer, only its cache is used.

    Args:
        init: stage 1's run, if it exists.
        processes: number of GPUs that share the batch.
    """
    with _offline_unless_reachable(recipe) as offline:
        return _forecast(recipe, stage, corpus, out, init=init, processes=processes, hub=offline)


def _forecast(
    recipe: Recipe,
    stage: str,
    corpus: Corpus,
    out: Path,
    *,
    init: Path | None,
    processes: int,
    hub: str,
) -> RunForecast:
    problems: list[str] = []
    notes: list[str] = []
    train: Sequence[Sample] = corpus.splits["train"]
    if stage == "1" and recipe.data.split_dense:
        train = [split_dense(sample) for sample in train]
    tokenizer = _find_tokenizer(recipe, stage, corpus, init, problems)
    limit = recipe.text.max_tokens
    kinds = {"1": ("dense",), "sparse": ("sparse",)}.get(stage, ("sparse", "dense"))
    texts = tuple(measure_texts(train, kind, tokenizer=tokenizer, limit=limit) for kind in kinds)
    if init is None or not recipe.teacher.warm_start:
        for repo in list_origins(recipe.to_dict()):
            _look_for(repo, hub, problems, notes)
    step = None
    try:
        batch = recipe.optim.batch_size
        in_step = partial(_lengths_in_step, recipe, stage, train, tokenizer)
        step = forecast_step(
            recipe,
            stage=stage,
            lengths=pick_lengths(in_step(texts[0]), batch * recipe.data.texts_per_step),
            dense=pick_lengths(in_step(texts[1]), batch) if len(texts) > 1 else (),
            vocabulary=tokenizer or _Unknown(),
            processes=processes,
        )
    except UserError as error:
        problems.append(str(error))
    disk = 0 if step is None else count_disk(recipe, step, corpus, texts)
    free = shutil.disk_usage(_existing(out)).free
    if disk > free:
        problems.append(
            f"{disk / 2**30:.1f} GiB will be written, but only {free / 2**30:.1f} GiB are free"
        )
    gpu = device_memory()
    if gpu is not None and step is not None and step.peak > gpu[1]:
        notes.append(
            f"more memory than the {gpu[0]} has: split the batch with --gpus, or use --set "
            "image.checkpointing=true or --set optim.chunk=N"
        )
    length = measure_length(recipe, stage, corpus)
    return RunForecast(
        stage, length, step, texts, disk, free, processes, gpu, tuple(problems), tuple(notes)
    )


class _Unknown:
    """The vocabulary of BERT, for an unavailable tokenizer."""

    vocab_size = 30522
    pad_id = 0


def _find_tokenizer(
    recipe: Recipe, stage: str, corpus: Corpus, init: Path | None, problems: list[str]
) -> TextTokenizer | None:
    before = [] if init is None else [init / TOKENIZER]
    try:
        found = choose_tokenizer(recipe.text, corpus.training_texts(), before=before)
        check_tokenizer(found, recipe, stage=stage)
        return found
    except UserError as error:
        problems.append(str(error))
        return None


@contextmanager
def _offline_unless_reachable(recipe: Recipe) -> Iterator[str]:
    """Go offline unless the Hub responds; returns the reason, or "".

    Its libraries would retry each request for half a minute, for many files.
    """
    before = constants.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if before else ""
    names = [name for name in (recipe.image.name, recipe.text.name) if name is not None]
    if not before and not all(Path(name).is_dir() for name in names):
        problem = ask_server(constants.ENDPOINT, timeout=TIMEOUT)
        reason = f"the Hub cannot be reached ({problem})" if problem else ""
    constants.HF_HUB_OFFLINE = bool(reason)
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before


def _look_for(repo: str, hub: str, problems: list[str], notes: list[str]) -> None:
    """Report a repository of pretrained weights that is not on this machine."""
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))
    found = [path.name for path in folder.glob("snapshots/*/*")]
    if "config.json" in found or any(name.endswith((".safetensors", ".bin")) for name in found):
        return
    if hub:
        problems.append(
            f"the weights of {repo} are not in the Hugging Face cache, and {hub}: run "
            f"`hf download {repo}` where there is a network"
        )
    else:
        notes.append(f"the weights of {repo} will be downloaded: they are not in the cache yet")


def count_disk(
    recipe: Recipe, step: StepForecast, corpus: Corpus, texts: Sequence[TextLengths]
) -> int:
    """Bytes of a run and its cache: the model, two states (the old one is removed last), arrays."""
    weights = 4 * step.weights["all"]
    # Weights, AdamW's two moments, and the averaged weights if any.
    state = weights + step.memory["AdamW"] + step.memory.get("averaged weights", 0)
    total = weights + 2 * state
    images = sum(map(len, corpus.splits.values()))
    tokens = sum(
        round(kind.total * sum(kind.lengths) / max(1, len(kind.lengths))) for kind in texts
    )
    total += 8 * tokens  # ids and word indices, 4 bytes each
    if recipe.data.cache_images:
        total += images * recipe.image.px**2 * 3
    if recipe.data.cache_tokens and recipe.image.freeze == "all":
        total += images * step.tokens["image"]
    if recipe.data.cache_tokens and recipe.text.freeze == "all":
        total += tokens * step.tokens["text"]
    return total + 4 * len(corpus.splits["train"]) * recipe.width


def _existing(path: Path) -> Path:
    """The path, or its nearest existing parent."""
    found = Path(os.path.abspath(path))
    while not found.exists():
        found = found.parent
    return found


def measure_texts(
    samples: Sequence[Sample], kind: str, *, tokenizer: TextTokenizer | None, limit: int
) -> TextLengths:
    """Lengths of the "dense" or "sparse" texts of the samples."""
    texts = list_texts(samples, kind)
    chosen = _spread(texts)
    if tokenizer is None:
        lengths = [round(PIECES * len(text.split())) + ENDS for text in chosen]
    else:
        lengths = [len(found.ids) for found in tokenizer.encode_batch(chosen)]
    return TextLengths(kind, len(texts), tuple(lengths), limit, tokenizer is None)


def _lengths_in_step(
    recipe: Recipe,
    stage: str,
    samples: Sequence[Sample],
    tokenizer: TextTokenizer | None,
    texts: TextLengths,
) -> list[int]:
    """Token counts of the texts as a step reads them: cut, and of dense texts a few sentences."""
    most = recipe.data.sentences if stage in ("1", "joint") else None  # a teacher reads all
    if texts.kind == "dense" and most is not None and tokenizer is not None:
        return draw_lengths(samples, tokenizer=tokenizer, most=most, limit=texts.limit)
    return [min(length, texts.limit) for length in texts.lengths]


def draw_lengths(
    samples: Sequence[Sample], *, tokenizer: TextTokenizer, most: int, limit: int
) -> list[int]:
    """Token counts if a step samples 1 to `most` sentences of each dense text."""
    chosen = _spread(list_texts(samples, "dense"))
    draw = partial(sample_sentences, most=most, end_ids=tokenizer.end_ids, edges=tokenizer.edges)
    return [
        len(draw(np.array(found.ids[:limit]), np.random.default_rng(index)))
        for index, found in enumerate(tokenizer.encode_batch(chosen))
    ]


def _spread(texts: Sequence[str]) -> list[str]:
    step = max(1, len(texts) // LOOKED_AT)
    return list(texts[::step][:LOOKED_AT])
