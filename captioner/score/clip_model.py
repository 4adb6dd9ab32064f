"""A CLIP model of open_clip: finding and loading its weights, encoding images and sentences.

Your own weights must be safetensors. Weights that open_clip knows by a tag can be a PyTorch file,
which is loaded with `weights_only=True` and therefore cannot run code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError, one_line
from data.files.hashes import hash_file

if TYPE_CHECKING:
    import torch
    from PIL import Image

_PREFIX = "open_clip:"
_CONFIG_NAME = "open_clip_config.json"
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class ClipChoice:
    """A CLIP model: an architecture of open_clip and weights, or a folder or repository with both.

    `pretrained` is a tag of open_clip or a safetensors file; None if `model` is a folder or
    hf-hub:ORG/REPO.
    """

    model: str
    pretrained: str | None = None

    @classmethod
    def parse(cls, name: str) -> ClipChoice:
        """From open_clip:ARCH/WEIGHTS, open_clip:FOLDER or open_clip:hf-hub:ORG/REPO.

        Raises:
            UserError: it is not one of these.
        """
        given = name.removeprefix(_PREFIX)
        if given.startswith("hf-hub:") or (given and Path(given).is_dir()):
            return cls(given)
        arch, _, weights = given.partition("/")
        if given == name or not arch or not weights:
            raise UserError(
                f"{name} is not a CLIP model: use open_clip:ARCH/WEIGHTS (such as "
                "open_clip:ViT-B-32/openai), open_clip:FOLDER or open_clip:hf-hub:ORG/REPO"
            )
        return cls(arch, weights)

    @property
    def folder(self) -> Path | None:
        """The folder, if `model` is one."""
        return Path(self.model) if Path(self.model).is_dir() else None

    def find_weights(self) -> Path | None:
        """The file of your own weights; None if open_clip has to fetch them.

        Raises:
            UserError: they do not exist, or are not safetensors.
        """
        if self.folder is not None:
            return _find_in_folder(self.folder)
        if self.pretrained is None:
            return None
        path = Path(self.pretrained)
        if path.suffix == ".safetensors" and not path.is_file():
            raise UserError(f"the CLIP weights {path} do not exist")
        if path.is_file() and path.suffix != ".safetensors":
            raise UserError(
                f"{path} is not a safetensors file, and other formats can run code when read: "
                "convert it, or use a tag of open_clip"
            )
        return path if path.is_file() else None

    def describe(self) -> dict[str, Any]:
        """Everything that affects the scores, for the file's metadata. Hashes the weights."""
        weights = self.find_weights()
        return {
            "model": self.model,
            "pretrained": self.pretrained,
            "weights_sha256": hash_file(weights) if weights else None,
            "open_clip": version("open_clip_torch"),
        }


class ClipEncoder:
    """Images and sentences as vectors of length 1. Use `load_clip` to make one."""

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenize: Callable[[list[str]], torch.Tensor],
        device: torch.device,
    ) -> None:
        self._model = model
        self._tokenize = tokenize
        self.preprocess = preprocess
        self.device = device
        # The token after the end of a short text: another value at the end means that the text was
        # cut.
        self._padding = int(tokenize([""])[0, -1])

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, H, W), from `preprocess`, to (B, D)."""
        import torch

        with torch.inference_mode():
            vectors: torch.Tensor = self._model.encode_image(pixels.to(self.device), normalize=True)
        return vectors.float()

    def encode_texts(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode N texts to (N, D); also returns (N,): whether each was too long for the model."""
        import torch

        parts, cut = [], []
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                tokens = self._tokenize(list(texts[start : start + _TEXTS_AT_ONCE]))
                # A text that just fits also fills the last position, and is counted as well.
                cut.append(tokens[:, -1] != self._padding)
                parts.append(self._model.encode_text(tokens.to(self.device), normalize=True))
        return torch.cat(parts).float(), torch.cat(cut)


def load_clip(choice: ClipChoice, *, device: str | None = None) -> ClipEncoder:
    """Load a model and its weights onto `device` (default: the GPU if there is one).

    Raises:
        UserError: no such model or weights, or they do not fit each other.
    """
    import torch

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    weights = choice.find_weights()
    try:
        with _quiet():
            made = _load_fetched(choice, place) if weights is None else _load_own(choice, weights)
    except Exception as error:
        # open_clip and the hub can raise anything.
        reason = one_line(error)
        shown = f"{choice.model} {choice.pretrained or ''}".strip()
        raise UserError(
            f"the CLIP {shown} cannot be loaded: {reason}. Without a network, use a folder "
            "(open_clip:FOLDER) or a .safetensors file (open_clip:ARCH/FILE)"
        ) from error
    model, preprocess, tokenize = made
    return ClipEncoder(model.to(place).eval(), preprocess, tokenize, place)


def _load_fetched(choice: ClipChoice, device: torch.device) -> tuple[Any, Any, Any]:
    """A model with open_clip's own weights, from its cache or the network."""
    import open_clip

    known = open_clip.get_pretrained_cfg(choice.model.replace("/", "-"), choice.pretrained or "")
    model, preprocess = open_clip.create_model_from_pretrained(
        choice.model,
        choice.pretrained,
        device=device,
        weights_only=True,
        # OpenAI's weights need their own activation; open_clip only warns if it is missing.
        force_quick_gelu=bool(known.get("quick_gelu")),
    )
    return model, preprocess, open_clip.get_tokenizer(choice.model)


def _load_own(choice: ClipChoice, weights: Path) -> tuple[Any, Any, Any]:
    """A model with weights from a safetensors file."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    name = choice.model if choice.folder is None else f"local-dir:{choice.folder}"
    model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    open_clip.load_checkpoint(model, str(weights), weights_only=True)
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model, preprocess, open_clip.get_tokenizer(name)


def _find_in_folder(folder: Path) -> Path:
    if not (folder / _CONFIG_NAME).is_file():
        raise UserError(f"{folder} is not a CLIP model: it has no {_CONFIG_NAME}")
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise UserError(
            f"{folder} has {len(found)} safetensors files, but must have one: the CLIP weights"
        )
    return found[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's log: it also raises these errors, and one line is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
