"""Preparing a training run before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.escaping import shown
from data.sparse.captions import read_captions
from data.sparse.source import CaptionSource
from vse.recipes import Recipe
from vse.recipes.files import resolve
from vse.runs.config import (
    FORMAT,
    list_versions,
    read_left_out,
)
from vse.samples.corpus import Corpus, CorpusSettings, LeftOut, build_corpus
from vse.samples.dense import (
    dense_of_source,
    make_captions,
    read_dense,
    read_if_whole,
    refuse_known_captions,
)
from vse.samples.discovery import DataPaths
from vse.samples.named_texts import choose_texts
from vse.samples.sampler import check_items
from vse.training.identity import fingerprint_run, hash_corpus

CACHE = "cache"  # beside the folders of runs
OPTIMISTIC = (
    "the best epoch is selected on the test split (data.select_split): results on that split will "
    "be optimistic"
)


@dataclass(frozen=True)
class Length:
    """The length of a run. `items` is the number of items per epoch."""

    items: int
    steps_per_epoch: int
    steps: int


def takes_images(recipe: Recipe, stage: str) -> bool:
    """Whether an epoch has each image once, with its dense text or a random caption."""
    return stage == "1" or recipe.data.items == "images"


def has_decoder(recipe: Recipe, stage: str) -> bool:
    """Whether the stage's model has a decoder."""
    return stage in ("2", "joint") or (stage == "sparse" and recipe.decoder.in_sparse)


def measure_length(recipe: Recipe, stage: str, corpus: Corpus) -> Length:
    """Items and steps of a stage of `recipe` on the training split."""
    train, optim = corpus.splits["train"], recipe.optim
    count = sum(len(sample.captions) for sample in train)
    items = len(train) if takes_images(recipe, stage) else count
    per_epoch = items // optim.batch_size
    steps = optim.steps if optim.steps is not None else optim.epochs * per_epoch
    return Length(items, per_epoch, steps)


@dataclass(frozen=True)
class RunSpec:
    """Everything that defines a run. `init` is the run from which stage 2 starts."""

    stage: str
    out: Path
    recipe: Recipe
    raw: Mapping[str, Any]  # the recipe with all its stages, for the next stage
    paths: DataPaths
    corpus: Corpus
    source: CaptionSource
    init: Path | None
    fingerprint: Mapping[str, Any]

    @property
    def cache(self) -> Path:
        """The cache folder, shared by neighboring runs: same files, same tokenizer, same array."""
        return self.out.parent / CACHE

    @property
    def one_per_image(self) -> bool:
        """Whether an epoch has each image once, with its dense text or a random caption."""
        return takes_images(self.recipe, self.stage)

    @property
    def length(self) -> Length:
        return measure_length(self.recipe, self.stage, self.corpus)

    def leave_out(self, images: Sequence[LeftOut]) -> RunSpec:
        """The spec without some images.

        Raises:
            UserError: too many, or too few are left for training.
        """
        corpus = self.corpus.leave_out(images)
        fingerprint = {**self.fingerprint, "data": hash_corpus(corpus)}
        made = replace(self, corpus=corpus, fingerprint=fingerprint)
        _check_items(made)
        return made


def _check_items(spec: RunSpec) -> None:
    """UserError if no batch has a negative."""
    train = spec.corpus.splits["train"]
    if len(train) < 2:
        raise UserError(
            f"{len(train)} training images, but at least two are needed: check the splits of "
            f"{spec.source.path}, or specify other captions with --captions"
        )
    check_items(spec.length.items, spec.recipe.optim.batch_size)


def make_spec(
    *,
    stage: str,
    out: Path,
    raw: Mapping[str, Any],
    overrides: Sequence[str],
    options: Mapping[str, Any],
    paths: DataPaths,
    init: Path | None,
    limit: int | None,
) -> RunSpec:
    """Resolve the settings and match the data.

    Args:
        options: options of the command line, see `recipe_files.resolve`.

    Raises:
        UserError: invalid settings, data that cannot be matched, too few images.
    """
    recipe = resolve(raw, stage=stage, overrides=overrides, **options)
    refuse_unfitting(recipe, stage)
    if out.resolve() == (out.parent / CACHE).resolve():
        raise UserError(f"--out {out} is where runs keep their cache: use another name")
    recipe, paths = settle_texts(recipe, paths)
    source, corpus = join_data(recipe, paths, limit=limit)
    made = RunSpec(
        stage=stage,
        out=out,
        recipe=recipe,
        raw=raw,
        paths=paths,
        corpus=corpus,
        source=source,
        init=init,
        fingerprint=fingerprint_run(stage, recipe, paths, init),
    )
    # Images left out at the start stay out, even if they have been fixed since.
    begun = {(row["split"], row["name"]) for row in read_left_out(out)}
    reason = "the run in the folder started without it"
    return made.leave_out(
        [
            LeftOut(split, sample.name, reason)
            for split, samples in corpus.splits.items()
            for sample in samples
            if (split, sample.name) in begun
        ]
    )


def refuse_unfitting(recipe: Recipe, stage: str) -> None:
    """UserError for settings that do not fit the stage."""
    if recipe.data.texts_per_step > 1 and not takes_images(recipe, stage):
        raise UserError(
            f"data.texts_per_step is {recipe.data.texts_per_step}, but an epoch of stage {stage} "
            "counts captions: for several per image, use --set data.items=images"
        )
    if stage == "joint" and recipe.loss.distill_image == "image":
        raise UserError(
            "loss.distill_image is image, but the joint stage has no stage 1 to distill from: omit "
            "it, or use dense"
        )


def settle_texts(recipe: Recipe, paths: DataPaths) -> tuple[Recipe, DataPaths]:
    """Recipe and settings with the names of the texts to read, if there are several.

    Raises:
        UserError: unknown or missing names, or captions that would be ignored.
    """
    data, folder = recipe.data, paths.texts
    if data.sparse_text is not None:
        if paths.captions_named:
            raise UserError(
                f"both --captions and data.sparse_text={data.sparse_text} specify the sparse text: "
                "omit one of them"
            )
        paths = replace(paths, captions=None)
    if folder is None:
        asked = data.sparse_text or (data.texts and paths.dense_with_captions and data.texts[0])
        if asked:
            raise UserError(f"no text {asked}: specify the folder of several texts with --dense")
        return recipe, paths
    if paths.captions is None and data.sparse_text is None:
        refuse_known_captions(folder)
    if paths.dense is None and paths.captions is not None:
        return recipe, paths  # the baseline, on human captions
    data = choose_texts(data, folder, captioned=paths.captions is not None)
    return replace(recipe, data=data), paths


def join_data(
    recipe: Recipe, paths: DataPaths, *, limit: int | None, probe: bool = True
) -> tuple[CaptionSource, Corpus]:
    """Read the captions and the dense text, and match them with the images.

    Args:
        probe: whether to look into the images, and leave out those that cannot be read.

    Raises:
        UserError: something cannot be read, or they do not match.
    """
    recipe, paths = settle_texts(recipe, paths)
    if paths.captions is None:
        assert paths.texts is not None
        source = make_captions(paths.texts, recipe.data)
    else:
        source = read_captions(paths.captions)
    dense = read_dense(paths.dense, recipe.data.texts or ()) if paths.dense is not None else None
    if paths.dense_with_captions:
        dense = dense_of_source(source)
    settings = CorpusSettings(
        max_missing=recipe.data.max_missing,
        captions_per_image=recipe.data.captions_per_image,
        limit=limit,
        probe=probe,
    )
    captioned = None if paths.captioned_by is None else read_if_whole(paths.captioned_by)
    corpus = build_corpus(paths.images, source, settings, dense=dense, captioned=captioned)
    return source, corpus


def make_config(
    spec: RunSpec, *, model: Mapping[str, Any], counts: Mapping[str, int]
) -> dict[str, Any]:
    """config.json of the run."""
    return {
        "format": FORMAT,
        "stage": spec.stage,
        "model": dict(model),
        "recipe": spec.recipe.to_dict(),
        "recipe_raw": dict(spec.raw),
        "data": {
            **name_places(spec.paths),
            "dataset": spec.corpus.dataset,
            "sparse_side": spec.source.notes[0] if spec.paths.captions is None else None,
            "split_counts": spec.corpus.counts(),
            "left_out": list(spec.corpus.notes),
        },
        "init": None if spec.init is None else str(spec.init.resolve()),
        "weights": dict(counts),
        "versions": list_versions(),
        "fingerprint": dict(spec.fingerprint),
    }


def name_places(paths: DataPaths) -> dict[str, str | None]:
    """The location of the data, for config.json."""
    return {
        **_name_place("images", paths.images),
        **_name_place("captions", paths.captions),
        **_name_place("dense", paths.dense),
        **_name_place("texts", None if paths.captions else paths.texts),
    }


def _name_place(what: str, path: Path | None) -> dict[str, str | None]:
    if path is None:
        return {what: None, f"{what}_relative": None}
    return {what: str(path.resolve()), f"{what}_relative": _relative(path)}


def hash_data(
    raw: Mapping[str, Any], paths: DataPaths, *, overrides: Sequence[str], limit: int | None
) -> str:
    """The identity of what both stages of a recipe read, whether or not images can be read."""
    found = []
    for stage in ("1", "2"):
        recipe = resolve(raw, stage=stage, overrides=overrides)
        _, corpus = join_data(recipe, paths, limit=limit, probe=False)
        found.append(hash_corpus(corpus))
    return "-".join(dict.fromkeys(found))


def _relative(path: Path) -> str | None:
    """Relative to the current folder, if it lies below."""
    text = shown(path)
    return None if Path(text).is_absolute() else text
