"""Ways to caption a folder of scenes, each run in a separate process by caption_rate.

    python -m benchmarks.caption_methods METHOD FOLDER MAX_TOKENS

Prints one JSON line: seconds from the ready engine to the last text, and the texts by file name.
All are greedy, in float32, with the same weights and prompt, so that the texts can be compared.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.llava.names import DEFAULT_PROMPT
from data.environment import SHIPPED_MODELS

MODEL = SHIPPED_MODELS["llava-scenes"]
PROMPT = f"USER: <image>\n{DEFAULT_PROMPT} ASSISTANT:"
BATCH = 16
DTYPE = "float32"
# Settings for vLLM on a CPU, which Ray's workers do not inherit.
_VARIABLES = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS")


def caption_with_d2s(
    folder: Path, max_tokens: int, *, engines: int | None = None
) -> dict[str, Any]:
    """What `d2s caption` does: decoding, engines, journals, shards."""
    from captioner import caption
    from data.dense.shards import read_rows

    with tempfile.TemporaryDirectory() as out:
        result = caption(
            model="llava-scenes",
            images=folder,
            out=Path(out),
            temperature=0.0,
            max_tokens=max_tokens,
            dtype=DTYPE,
            engines=engines,
        )
        table = read_rows(Path(out), ["file_name", "caption"])
        texts = dict(zip(*(table.column(n).to_pylist() for n in table.column_names), strict=True))
    return {"seconds": result.seconds, "texts": texts}


def feed_bare_engine(folder: Path, max_tokens: int) -> dict[str, Any]:
    """Only the engine of `d2s caption`, in this process, with prepared images."""
    from captioner.engine.factory import build_engine
    from captioner.engine.protocol import Request
    from captioner.settings.config import CaptionConfig
    from captioner.settings.prepare import prepare_caption

    prepared = prepare_caption(
        CaptionConfig.of(
            model="llava-scenes",
            images=folder,
            out=Path(tempfile.gettempdir()) / "none",
            temperature=0.0,
            max_tokens=max_tokens,
            dtype=DTYPE,
        )
    )
    images = [(path.name, fitted) for path, fitted in _load(folder)]
    engine = build_engine(prepared.choice.description)
    texts, waiting = {}, iter(images)
    started = time.monotonic()
    more = True
    while more or engine.pending:
        while more and engine.pending < engine.window:
            ready = next(waiting, None)
            more = ready is not None
            if ready is not None:
                engine.submit(Request(ready[0], ready[1], "", seed=0))
        for generation in engine.collect():
            texts[generation.key] = generation.text.strip()
    seconds = time.monotonic() - started
    engine.close()
    return {"seconds": seconds, "texts": texts}


def call_generate(folder: Path, max_tokens: int) -> dict[str, Any]:
    """The usual script: decode the whole list, call `LLM.generate`, keep the outputs."""
    from vllm import LLM, SamplingParams

    model = LLM(
        model=str(MODEL),
        dtype=DTYPE,
        enforce_eager=True,
        max_model_len=1024,
        limit_mm_per_prompt={"image": 1},
    )
    started = time.monotonic()
    names, prompts = [], []
    for path in _list(folder):
        names.append(path.name)
        image = Image.open(path).convert("RGB")
        prompts.append({"prompt": PROMPT, "multi_modal_data": {"image": image}})
    outputs = model.generate(prompts, SamplingParams(temperature=0.0, max_tokens=max_tokens))
    seconds = time.monotonic() - started
    texts = [output.outputs[0].text.strip() for output in outputs]
    return {"seconds": seconds, "texts": dict(zip(names, texts, strict=True))}


def call_transformers(folder: Path, max_tokens: int) -> dict[str, Any]:
    """transformers' own `generate`, in batches."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(MODEL)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    model = model.to(device).eval()
    processor.tokenizer.padding_side = "left"
    texts: dict[str, str] = {}
    files = _list(folder)
    started = time.monotonic()
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        images = [Image.open(path).convert("RGB") for path in batch]
        inputs = processor(images=images, text=[PROMPT] * len(batch), return_tensors="pt")
        inputs = inputs.to(device)
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_tokens)
        said = processor.batch_decode(
            ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        texts |= {path.name: text.strip() for path, text in zip(batch, said, strict=True)}
    return {"seconds": time.monotonic() - started, "texts": texts}


def call_ray_llm(folder: Path, max_tokens: int) -> dict[str, Any]:
    """Ray Data LLM's processor; its stages start with the first rows, so they are warmed up."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    # Its engine stage requires a GPU; on a CPU it gets a nominal one, which vLLM ignores.
    ray.init(num_gpus=1, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    config = vLLMEngineProcessorConfig(
        model_source=str(MODEL),
        engine_kwargs={
            "dtype": DTYPE,
            "enforce_eager": True,
            "max_model_len": 1024,
            "limit_mm_per_prompt": {"image": 1},
        },
        concurrency=1,
        batch_size=64,
        log_engine_metrics=False,
        runtime_env={"env_vars": {name: os.environ[name] for name in _VARIABLES}},
        chat_template_stage={"enabled": False},
        tokenize_stage={"enabled": False},
        detokenize_stage={"enabled": False},
        prepare_multimodal_stage={"enabled": False},
    )
    moments: list[float] = []

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        image = Image.open(row["path"]).convert("RGB")
        return {
            "name": Path(row["path"]).name,
            "prompt": PROMPT,
            "multimodal_data": {"image": image},
            "sampling_params": {"temperature": 0.0, "max_tokens": max_tokens},
        }

    process = build_processor(
        config,
        preprocess=ask,
        postprocess=lambda row: {"name": row["name"], "text": row["generated_text"]},
    )
    rows = [{"path": str(path)} for path in _list(folder)]
    texts: dict[str, str] = {}
    for row in process(ray.data.from_items(rows, override_num_blocks=32)).iter_rows():
        moments.append(time.monotonic())
        texts[row["name"]] = row["text"].strip()
    # From the first text on: the time before includes the startup of the engine.
    count = len(moments)
    first = next(i for i, moment in enumerate(moments) if moment > moments[0])
    seconds = (moments[-1] - moments[first]) * count / (count - first - 1)
    return {"seconds": seconds, "texts": texts}


METHODS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "d2s": caption_with_d2s,
    "one": partial(caption_with_d2s, engines=1),
    "bare": feed_bare_engine,
    "generate": call_generate,
    "transformers": call_transformers,
    "ray": call_ray_llm,
}


def _list(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))


def _load(folder: Path) -> list[tuple[Path, Image.Image]]:
    return [(path, Image.open(path).convert("RGB")) for path in _list(folder)]


def main() -> None:
    method, folder, max_tokens = sys.argv[1:]
    # Keep the output of libraries apart from our result.
    answers = os.dup(1)
    os.dup2(2, 1)
    result = METHODS[method](Path(folder), int(max_tokens))
    os.write(answers, json.dumps(result).encode() + b"\n")


if __name__ == "__main__":
    main()
