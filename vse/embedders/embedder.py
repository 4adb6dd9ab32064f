"""A trained model as a library: images and texts in, embeddings out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelHubMixin

from data.environment import count_cores
from data.errors import UserError, first_line, one_line
from vse.evaluation.results import read_results
from vse.evaluation.split import Report
from vse.model.build import rebuild
from vse.model.d2s import D2SModel
from vse.model.encoding import BATCH, embed_images, embed_texts, find_device, say_nothing
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.tokenizer import TextTokenizer
from vse.model.tokenizer.tokens import TokenStore, deterministic_way, tokenize
from vse.runs.config import CONFIG, LOG, MODEL, TOKENIZER, read_config, selection_split
from vse.runs.folder import load_tensors, read_progress_summary
from vse.runs.models import ModelIdentity, find_model, identify_model, missing_model
from vse.samples.images import AnyImage, ImageList, LenientImages, Pixels
from vse.sharing.card import CARD, Measured, is_own_card, write_card
from vse.sharing.package import save_files, strip_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Embedder(ModelHubMixin):
    """A model in evaluation mode with its tokenizer, its input size and its config.json.

    `folder` is where it was loaded from. `dtype` is the precision of the computation; weights and
    embeddings stay float32.
    """

    def __init__(
        self,
        model: D2SModel,
        tokenizer: TextTokenizer,
        config: dict[str, Any],
        *,
        folder: Path | None = None,
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.config = config
        self.folder = folder
        self.dtype = dtype
        self.px: int = config["model"]["image"]["px"]
        # Older models do not record this; their pixels were antialiased.
        self.antialias: bool = config["model"]["image"].get("antialias", True)
        self.width: int = config["model"]["width"]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode_image(
        self, images: AnyImage | Sequence[AnyImage], *, batch_size: int = 64
    ) -> np.ndarray:
        """Embed images, stretched to the square used in training: (N, D) float32, normalized.

        Args:
            images: one image or several, each a Pillow image, a path, the bytes of a file, or
                pixels (uint8 of shape (H, W, 3)).

        Raises:
            UserError: an image cannot be read; the message names it.
        """
        given = [images] if isinstance(images, AnyImage) else list(images)
        pixels = ImageList(given, px=self.px, antialias=self.antialias)
        return self.encode_pixels(pixels, batch_size=batch_size)

    def encode_pixels(
        self,
        pixels: Pixels,
        *,
        batch_size: int = 64,
        threads: int = 0,
        report: Report = say_nothing,
    ) -> np.ndarray:
        """Like `encode_image`, for pixels that are read one after another, each once.

        `threads`, `report`: see `vse.model.encoding.embed_images`.
        """
        if not len(pixels):
            return np.zeros((0, self.width), dtype=np.float32)
        with self._run(batch_size):
            return embed_images(
                self.model, pixels, batch_size=batch_size, threads=threads, report=report
            )

    def encode_text(self, texts: str | Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed texts: (M, D) float32, normalized; texts beyond the maximum length are
        truncated."""
        given = [texts] if isinstance(texts, str) else list(texts)
        return self.encode_tokens(self.tokenize(given), batch_size=batch_size)

    def encode_tokens(
        self, store: TokenStore, *, batch_size: int = 64, report: Report = say_nothing
    ) -> np.ndarray:
        """Like `encode_text`, for the output of `tokenize`; its `cut` is the number of truncated
        texts."""
        if not len(store):
            return np.zeros((0, self.width), dtype=np.float32)
        pad = self.tokenizer.pad_id
        with self._run(batch_size):
            return embed_texts(self.model, store, pad_id=pad, batch_size=batch_size, report=report)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Like `encode_text`, but no embedding depends on the other texts.

        A model that reads padding, as the released code does, embeds a text differently next to a
        longer one.
        """
        return self.encode_text(texts, batch_size=1 if self.model.reads_padding else 64)

    def similarity(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Cosine similarities, (N, D) x (M, D) -> (N, M)."""
        return images @ texts.T

    def tokenize(self, texts: Sequence[str]) -> TokenStore:
        """Token ids, truncated as in training."""
        text = self.config["model"]["text"]
        return tokenize(
            texts,
            self.tokenizer,
            max_tokens=text["max_tokens"],
            too_long=deterministic_way(text.get("too_long", "cut")),
            end_ids=self.tokenizer.end_ids,
        )

    @contextlib.contextmanager
    def _run(self, batch_size: int) -> Iterator[None]:
        """Run under autocast unless `dtype` is float32; explains lack of memory."""
        manner: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.dtype != "float32":
            manner = torch.autocast(self.device.type, dtype=DTYPES[self.dtype])
        try:
            with manner:
                yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the memory of {self.device} is too small for a batch of {batch_size}: use a "
                "smaller batch size"
            ) from error

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        **hub: Any,
    ) -> Embedder:
        """Load a run's best model from its folder, or a published one from the Hub.

        Args:
            device: by default a GPU if there is one.
            dtype: float32, bfloat16 or float16; the last two need a GPU.
            hub: revision, token, cache_dir, force_download, local_files_only.

        Raises:
            UserError: there is no finished run, only pickled weights, or a file is damaged.
        """
        return _load(find_model(pretrained_model_name_or_path, **hub), device=device, dtype=dtype)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write config.json, model.safetensors, tokenizer/, preprocessing.json and a README.md.

        The paths of the training data are removed from config.json. The card has the recalls if
        `d2s evaluate` has measured these weights. An existing one that d2s wrote is renamed to
        README.md.bak; any other README.md is kept.

        Args:
            options: those of `ModelHubMixin.save_pretrained`: repo_id, push_to_hub, ...

        Raises:
            UserError: the folder is that of a training run.
        """
        if (Path(save_directory) / LOG).exists():
            raise UserError(
                f"{save_directory} is the folder of a training run: save the model elsewhere"
            )
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_files(save_directory, self.model, self.tokenizer, self.config)
        card = save_directory / CARD
        before = card.read_text("utf-8", "replace") if card.exists() else None
        if before is not None and not is_own_card(before):
            return
        # Identified by what was saved: the folder may have newer weights by now.
        saved = identify_model(save_directory, name=str(save_directory))
        found = read_results(self.folder, saved).found if self.folder is not None else {}
        results = [Measured(one) for one in found.values()]
        text = write_card(strip_config(self.config), results)
        if before not in (None, text):
            # It may have been edited.
            card.replace(card.with_suffix(".md.bak"))
        card.write_text(text, "utf-8")


def load_embedder(path: str | Path, *, device: str | torch.device | None = None) -> Embedder:
    """`Embedder.from_pretrained` on the given device, else a GPU if there is one."""
    return Embedder.from_pretrained(path, device=device)


def load_identified(folder: Path, identity: ModelIdentity, **options: Any) -> Embedder:
    """Load the model that was identified before; `options` as for `Embedder.from_pretrained`.

    Raises:
        UserError: it has changed since, as in a run that is still training.
    """
    embedder = Embedder.from_pretrained(folder, **options)
    if identify_model(folder, name=identity.name) != identity:
        raise UserError(
            f"the model {identity.name} changed while it was loaded, as in a run that is still "
            "training: run the same command again"
        )
    return embedder


def _read_whole_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if config is None:
        raise missing_model(str(folder), f"no {CONFIG}")
    if not (folder / MODEL).is_file():
        raise UserError(
            f"{folder} has no {MODEL} yet, because the run was never evaluated: run the same `d2s "
            "train` command again to continue it"
        )
    return config


def _load(folder: Path, *, device: str | torch.device | None, dtype: str) -> Embedder:
    config = _read_whole_config(folder)
    try:
        model = rebuild(config["model"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CONFIG} does not describe a model: {error} is missing or invalid"
        ) from error
    try:
        model.load_state_dict(load_tensors(folder / MODEL))
    except RuntimeError as error:
        reason = one_line(error)
        raise UserError(f"{folder / MODEL} does not fit its {CONFIG}: {reason}") from error
    if device is None:
        device = find_device()
    tokenizer = tokenizers.load(folder / TOKENIZER)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {device} cannot be used: {first_line(error)}") from error
    return Embedder(model, tokenizer, config, folder=folder, dtype=dtype)


class TrainedEncoder:
    """An `Embedder` to evaluate, with its identity and the progress of its training."""

    def __init__(
        self, embedder: Embedder, identity: ModelIdentity, progress: Mapping[str, Any]
    ) -> None:
        self.embedder = embedder
        self.name = identity.name
        self.px = embedder.px
        self._identity = identity
        self._progress = progress

    @classmethod
    def load(cls, folder: Path, *, name: str, dtype: str = "float32") -> TrainedEncoder:
        """Load and identify a model, which may be replaced later while it is evaluated.

        Args:
            name: the user's name for it.

        Raises:
            UserError: as for `Embedder.from_pretrained`, or it changed meanwhile.
        """
        _read_whole_config(folder)
        identity = identify_model(folder, name=name)
        progress = read_progress_summary(folder)
        return cls(load_identified(folder, identity, dtype=dtype), identity, progress)

    def embed_files(
        self, paths: Sequence[Path], *, report: Report
    ) -> tuple[np.ndarray, Mapping[int, str]]:
        pixels = LenientImages(paths, px=self.px, antialias=self.embedder.antialias)
        found = self.embedder.encode_pixels(
            pixels, batch_size=BATCH, threads=count_cores(), report=report
        )
        return found, dict(sorted(pixels.broken.items()))

    def embed_captions(self, captions: Sequence[str], *, report: Report) -> np.ndarray:
        own = self.embedder
        return own.encode_tokens(own.tokenize(captions), batch_size=BATCH, report=report)

    def describe(self) -> dict[str, Any]:
        config = self.embedder.config
        return {
            "stage": config["stage"],
            "picked_on": selection_split(config),
            "px": self.px,
            "resize": "squash, bilinear" + ("" if self.embedder.antialias else ", not antialiased"),
            "dtype": self.embedder.dtype,
            "widths": (config["recipe"].get("loss") or {}).get("widths"),
            "max_tokens": config["model"]["text"]["max_tokens"],
            "weights_sha256": self._identity.weights_sha256,
            "fingerprint": self._identity.fingerprint,
            **self._progress,
        }
