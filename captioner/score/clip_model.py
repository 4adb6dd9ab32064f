"""A CLIP by open_clip: its weights found and loaded, images and sentences turned into vectors.

Weights of one's own must be safetensors, which hold numbers alone. Those that open_clip knows by a
tag may come as a PyTorch file, which is then read with `weights_only=True`: that makes tensors and
runs no code.
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
    """Which CLIP: an architecture of open_clip and its weights, or a folder or repository of both.

    `pretrained` is a tag that open_clip knows, or a safetensors file; None where `model` is a
    folder or hf-hub:ORG/REPO, which have their own weights.
    """

    model: str
    pretrained: str | None = None

    @classmethod
    def parse(cls, name: str) -> ClipChoice:
        """From open_clip:ARCH/WEIGHTS, open_clip:FOLDER or open_clip:hf-hub:ORG/REPO.

        Raises:
            UserError: it is none of these.
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
        """The weights as a file of one's own; None where open_clip is to fetch them.

        Raises:
            UserError: they are not there, or no safetensors.
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
        """What decides the scores, for the file's metadata. Reads the weights once to hash them."""
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
        # What stands after the end of a short text: another value there says that it was cut.
        self._padding = int(tokenize([""])[0, -1])

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), as `preprocess` makes each, to (B, D)."""
        import torch

        with torch.inference_mode():
            vectors: torch.Tensor = self._model.encode_image(pixels.to(self.device), normalize=True)
        return vectors.float()

    def encode_texts(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """N texts to (N, D), and (N,): whether each had more tokens than the model reads."""
        import torch

        parts, cut = [], []
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                tokens = self._tokenize(list(texts[start : start + _TEXTS_AT_ONCE]))
                # The last place of a text that just fits is taken too; that one is counted as well.
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
        # open_clip and the hub raise whatever went wrong beneath them.
        reason = one_line(error)
        shown = f"{choice.model} {choice.pretrained or ''}".strip()
        raise UserError(
            f"the CLIP {shown} cannot be loaded: {reason}. Without a network, use a folder "
            "(open_clip:FOLDER) or a .safetensors file (open_clip:ARCH/FILE)"
        ) from error
    model, preprocess, tokenize = made
    return ClipEncoder(model.to(place).eval(), preprocess, tokenize, place)


def _load_fetched(choice: ClipChoice, device: torch.device) -> tuple[Any, Any, Any]:
    """A model by open_clip's own names, its weights from open_clip's cache or the network."""
    import open_clip

    known = open_clip.get_pretrained_cfg(choice.model.replace("/", "-"), choice.pretrained or "")
    model, preprocess = open_clip.create_model_from_pretrained(
        choice.model,
        choice.pretrained,
        device=device,
        weights_only=True,
        # OpenAI's weights want their own activation, and open_clip only warns where it is missing.
        force_quick_gelu=bool(known.get("quick_gelu")),
    )
    return model, preprocess, open_clip.get_tokenizer(choice.model)


def _load_own(choice: ClipChoice, weights: Path) -> tuple[Any, Any, Any]:
    """A model of any kind with weights from a safetensors file."""
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
    """What open_clip logs as an error it raises as well; one line is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
