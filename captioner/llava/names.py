"""Short names of models, and the default prompt."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from data.environment import SHIPPED_MODELS
from data.errors import UserError

# The paper's prompt (D2S-VSE, section on dense text), rendered in the model's own chat template.
DEFAULT_PROMPT = "Describe this image in detail."

HUB_MODELS = {
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "llava-1.5-13b": "llava-hf/llava-1.5-13b-hf",
    "llava-1.6-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava-1.6-vicuna-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava-1.6-vicuna-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
    "llava-1.6-34b": "llava-hf/llava-v1.6-34b-hf",
    "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    **{f"qwen2.5-vl-{size}b": f"Qwen/Qwen2.5-VL-{size}B-Instruct" for size in (3, 7, 32, 72)},
    **{f"qwen3-vl-{size}b": f"Qwen/Qwen3-VL-{size}B-Instruct" for size in (2, 4, 8, 32)},
    # The repositories in transformers' format; the others require remote code.
    **{f"internvl3.5-{n}b": f"OpenGVLab/InternVL3_5-{n}B-HF" for n in (1, 2, 4, 8, 14, 38)},
    **{f"gemma-3-{size}b": f"google/gemma-3-{size}b-it" for size in (4, 12, 27)},
    "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "smolvlm-500m": "HuggingFaceTB/SmolVLM-500M-Instruct",
    "smolvlm-2b": "HuggingFaceTB/SmolVLM-Instruct",
    # Their processors need the package num2words.
    "smolvlm2-256m": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
    "smolvlm2-500m": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    "smolvlm2-2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "idefics3-8b": "HuggingFaceM4/Idefics3-8B-Llama3",
    "pixtral-12b": "mistral-community/pixtral-12b",
    # Tuned on the long descriptions of DOCCI.
    "paligemma2-3b": "google/paligemma2-3b-ft-docci-448",
    "paligemma2-10b": "google/paligemma2-10b-ft-docci-448",
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelName:
    """The meaning of `--model`: a folder on this machine, or a repository of the Hub."""

    name: str
    folder: Path | None = None
    repository: str | None = None


def parse_model_name(name: str) -> ModelName:
    """Resolve a short name, a Hub id or a local path, without reading or fetching anything.

    Raises:
        UserError: it is none of the three; suggests the nearest short name.
    """
    if name in SHIPPED_MODELS:
        return ModelName(name=name, folder=SHIPPED_MODELS[name])
    if name in HUB_MODELS:
        return ModelName(name=HUB_MODELS[name], repository=HUB_MODELS[name])
    path = Path(name).expanduser()
    if name and path.is_dir():
        # By the name of its folder: the hash of the files identifies it, wherever the folder is.
        return ModelName(name=path.resolve().name, folder=path.resolve())
    # "./models/x" and "/models/x" are paths; "owner/name" can be either.
    if not name.startswith((".", "/", "~")) and _HUB_ID.fullmatch(name):
        return ModelName(name=name, repository=name)
    known = [*HUB_MODELS, *SHIPPED_MODELS]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"no model {name!r}: {hint}known: {', '.join(known)}; or use a Hub id (owner/name) or a "
        "folder with weights"
    )
