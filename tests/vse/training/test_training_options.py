"""Options of a training run: averaged weights, early stopping, chunks, precisions, memory."""

import gc
import importlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from data.errors import UserError
from tests.processes import FORK
from tests.vse.runs import make, run, run_and_die
from tests.vse.world import dense_of, write_dense, write_recipe
from tests.waiting import HANG_SECONDS
from vse.embedders.embedder import load_embedder
from vse.model.d2s import D2SModel
from vse.model.tokenizer.tokenizer import build
from vse.runs.folder import read_log
from vse.samples.batches import Batch, BatchSources, TrainBatches
from vse.training.datasets import RunDatasets
from vse.training.distributed import start_accelerator
from vse.training.run import train

EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}


def state(folder: str | Path) -> dict[str, torch.Tensor]:
    [path] = Path(folder, "state").glob("*.safetensors")
    return load_file(path)


def progress(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "state/progress.json").read_text())
    return found


@pytest.mark.parametrize(
    "settings",
    [
        ("optim.ema=0.9", "data.bucket=2"),
        ("optim.chunk=5",),
        ("optim.precision=bf16", "optim.chunk=8"),
    ],
    ids=["ema-bucket", "chunk", "bf16"],
)
def test_killed_and_continued_equals_never_stopped(
    project: Path, settings: tuple[str, ...]
) -> None:
    whole, cut = (make("1", out=Path("runs", n), overrides=settings) for n in ("whole", "cut"))
    run(whole)
    run_and_die(cut, at=7)  # after the state of step 4
    events = run(cut)
    assert next(e for e in events if e["event"] == "resume")["step"] == 4
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)
    logs = [[e for e in read_log(Path("runs", n)) if e["event"] == "evaluation"]
            for n in ("whole", "cut")]  # fmt: skip
    assert logs[0] == logs[1]


def test_averaged_weights_are_what_is_evaluated_and_kept(project: Path) -> None:
    """Step by step: the average of the weights that a run without it goes through."""
    settings: dict[str, Any] = {"steps": 3, "eval_every": 3}
    run(make("sparse", out=Path("runs/ema"), overrides=("optim.ema=0.25",), **settings))
    average = None
    for step in (1, 2, 3):
        out = Path("runs", f"plain{step}")
        run(make("sparse", out=out, steps=step, eval_every=3))
        weights = {k: v for k, v in state(out).items() if k.startswith("stage.model.")}
        if average is None:
            start = make("sparse", out=Path("runs/start"), steps=1, lr=0.0, backbone_lr=0.0)
            run(start)
            average = {k: v for k, v in state("runs/start").items() if k in weights}
        decay = min(0.25, (1 + step) / (10 + step))
        average = {k: decay * average[k] + (1 - decay) * v for k, v in weights.items()}
    kept, last = load_file("runs/ema/model.safetensors"), state("runs/ema")
    moved = 0
    for name, value in kept.items():
        assert average is not None
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(value, last[f"stage.model.{name}"], **EXACT)
            continue
        torch.testing.assert_close(value, average[f"stage.model.{name}"], rtol=1e-5, atol=1e-6)
        moved += not torch.equal(value, last[f"stage.model.{name}"])
    assert moved > 20


def test_training_ends_when_validation_has_not_improved_for_so_long(project: Path) -> None:
    # At no learning rate nothing improves on the first evaluation.
    still: dict[str, Any] = {"lr": 0.0, "backbone_lr": 0.0, "steps": 40, "eval_every": 2}
    spec = make("sparse", out=Path("runs/a"), patience=3, **still)
    events = run(spec)
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [2, 4, 6, 8]
    assert next(e for e in events if e["event"] == "stopped early")["evaluations"] == 3
    assert events[-1] == {**events[-1], "event": "finish", "step": 8}
    done = progress("runs/a")
    assert done["finished"] and done["best_step"] == 2 and done["stale"] == 3
    assert run(spec)[0]["event"] == "finished before"


def test_patience_is_resumed(project: Path) -> None:
    still: dict[str, Any] = {"lr": 0.0, "backbone_lr": 0.0, "steps": 40, "eval_every": 2}
    cut = make("sparse", out=Path("runs/a"), patience=3, **still)
    run_and_die(cut, at=7)
    assert progress("runs/a")["stale"] == 2
    events = run(cut)
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [8]
    assert events[-1]["event"] == "finish" and progress("runs/a")["step"] == 8


def test_half_precision_is_used_and_learns(project: Path) -> None:
    settings = {"steps": 40, "eval_every": 40}
    run(make("sparse", out=Path("runs/half"), overrides=("optim.precision=bf16",), **settings))
    run(make("sparse", out=Path("runs/full"), **settings))
    half, full = ([e["align"] for e in read_log(Path("runs", n)) if e["event"] == "step"]
                  for n in ("half", "full"))  # fmt: skip
    assert half != full and abs(half[0] - full[0]) < 0.1
    assert sum(half[-5:]) < 0.9 * sum(half[:5])
    # Weights and optimiser stay in single precision.
    assert {v.dtype for v in state("runs/half").values() if v.is_floating_point()} == {
        torch.float32
    }


def test_buckets_sort_a_run_by_what_it_reads(project: Path) -> None:
    texts = dense_of(Path("world"))
    longer = {name: text + " More." * (i % 9) for i, (name, text) in enumerate(texts.items())}
    write_dense(Path("dense/world"), Path("world"), longer)
    spreads = {}
    for bucket in ("null", "3"):
        spec = make(
            "1", out=Path("runs/a"), overrides=(f"data.bucket={bucket}", "data.word_mask=0")
        )
        tokenizer = build(list(longer.values()), vocab_size=300)
        datasets = RunDatasets(spec, tokenizer, lambda event: None)
        train = spec.corpus.splits["train"]
        sources = BatchSources(datasets.pixels(train, "train"), datasets.texts(train))
        batches = datasets.batches(sources, rank=0, world=1, token_count=5, mask_dense=False)
        lengths = [batches[step].text.lengths for step in range(3)]
        spreads[bucket] = max(int(found.max() - found.min()) for found in lengths)
        assert len({int(i) for step in range(3) for i in batches[step].image_index}) == 48
    assert spreads["3"] < spreads["null"]


@pytest.mark.parametrize("stage", ["1", "joint"])
@pytest.mark.parametrize(
    ("way", "told"),
    [("cut", "truncated"), ("sentence", "complete sentence"), ("sample", "each step draws")],
)
def test_texts_too_long_for_the_tower_are_counted_and_read_as_asked(
    project: Path, way: str, told: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[tuple[int, ...]]] = {}
    get = TrainBatches.__getitem__

    def note(self: TrainBatches, step: int) -> Batch:
        batch = get(self, step)
        texts = batch.text if stage == "1" else batch.dense
        assert texts is not None
        for image, ids, size in zip(batch.image_index, texts.ids, texts.lengths, strict=True):
            seen.setdefault(int(image), set()).add(tuple(ids[: int(size)].tolist()))
        return batch

    monkeypatch.setattr(TrainBatches, "__getitem__", note)
    texts = dense_of(Path("world"))
    longer = {name: f"{text} One more. And one. Yet another one." for name, text in texts.items()}
    write_dense(Path("dense/world"), Path("world"), longer)
    limit = ("text.max_tokens=16", f"text.too_long={way}", "data.word_mask=0")
    events = run(make(stage, out=Path("runs/a"), steps=6, overrides=limit))
    assert max(len(ids) for read in seen.values() for ids in read) <= 16
    assert (max(map(len, seen.values())) > 1) == (way == "sample")  # in two epochs
    [train] = [e["text"] for e in events if "48 dense texts" in e.get("text", "")]
    assert train.startswith("48 of 48 dense texts (100.0 %) are longer than 16 tokens")
    assert told in train
    if stage == "joint":
        return  # its validation reads captions
    # A trained model reads what validation read.
    [val] = [e["text"] for e in events if "8 of 8 dense texts" in e.get("text", "")]
    assert ("truncated" if way == "cut" else "complete sentence") in val
    store = load_embedder("runs/a").tokenize([longer["val/000.png"]])
    words = 16 if way == "cut" else len(store[0])
    assert len(store[0]) == words <= 16
    if way != "cut":
        stop = load_embedder("runs/a").tokenizer.backend.token_to_id(".")
        assert store[0][-2] == stop


def _start_fp16(precision: str, **settings: Any) -> Accelerator:
    """fp16 as Accelerate sets it up on a GPU; torch's autocast and scaler work on a CPU as well."""
    accelerator = start_accelerator("no", **settings)
    # The first scale is far too large for any gradient here, and the next far from it.
    scale: dict[str, Any] = {"init_scale": 2.0**20, "backoff_factor": 2.0**-10}
    accelerator.scaler = torch.amp.GradScaler("cpu", growth_interval=5, **scale)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    return accelerator


def _interrupt_at_7(event: dict[str, Any]) -> None:
    if event["event"] == "tick" and event["step"] == 7:
        raise RuntimeError("pulled the plug")


def test_fp16_skips_what_overflows_and_is_continued_with_its_scale(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vse.training.run.start_accelerator", _start_fp16)
    whole, cut = (make("1", out=Path("runs", n), steps=8, log_every=1) for n in ("whole", "cut"))
    events = run(whole)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(cut, report=_interrupt_at_7)  # in this process, which has the other start
    assert progress("runs/cut")["scaler"]["scale"] == 2.0**10
    resumed = next(e for e in run(cut) if e["event"] == "resume")
    assert resumed["step"] == 4
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)
    # The scale, lowered once and doubled since, and what decides when it grows next.
    scaler = progress("runs/whole")["scaler"]
    assert progress("runs/cut")["scaler"] == scaler
    # An infinite gradient is no end: its step is left out, and AdamW has not heard of it.
    norms = [e["grad_norm"] for e in events if e["event"] == "step"]
    steps = {int(v) for k, v in state("runs/whole").items() if k.endswith(".step")}
    assert norms.count(None) == 1 and steps == {7}
    # Weights stay in single precision.
    assert {v.dtype for v in state("runs/whole").values() if v.is_floating_point()} == {
        torch.float32
    }


def test_fp16_without_a_gpu_is_said(project: Path) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    spec = make("sparse", out=Path("runs/a"), steps=2, overrides=("optim.precision=fp16",))
    events = run(spec)
    assert any("fp16 needs a GPU: training in fp32" in e.get("text", "") for e in events)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_not_a_number_is_named_in_every_precision(project: Path, precision: str) -> None:
    write_recipe(Path("tiny.yaml"), optim={"clip": 1e30, "precision": precision})
    with pytest.raises(UserError, match=r"became NaN or infinite .*optim.lr"):
        run(make("sparse", out=Path("runs/a"), lr=1e30, backbone_lr=1e30))
    assert not Path("runs/a/model.safetensors").exists()


def test_weights_that_became_nan_in_the_very_step_before_validation(project: Path) -> None:
    write_recipe(Path("tiny.yaml"), optim={"clip": 1e30})
    with pytest.raises(UserError, match="the weights became NaN .* shortly before step 1"):
        run(make("sparse", out=Path("runs/a"), lr=1e38, backbone_lr=1e38, steps=1))


def _train_in_little_memory() -> None:
    # 4,097 tokens an image: the first step wants gigabytes, while the model itself is small.
    spec = make("sparse", out=Path("runs/a"), overrides=("data.cache_images=false",), steps=2)
    # What is imported only when a model is built takes memory too.
    importlib.import_module("transformers.models.vit.modeling_vit")
    importlib.import_module("transformers.models.bert.modeling_bert")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (96 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        run(spec)
    except UserError as error:
        Path("said.txt").write_text(str(error))


def test_out_of_memory_says_what_to_do(project: Path) -> None:
    """A real allocation that fails, in a process of its own."""
    write_recipe(Path("tiny.yaml"), image={"px": 512}, data={"cache_images": False})
    process = FORK.Process(target=_train_in_little_memory)
    process.start()
    process.join(timeout=HANG_SECONDS)
    said = Path("said.txt").read_text()
    assert said.startswith("out of memory at a global batch of 16") and "optim.chunk=16" in said


def test_out_of_memory_before_the_first_step_says_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **settings: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run(make("1", out=Path("runs/stage1"), steps=1))
    spec = make("2", out=Path("runs/stage2"), init=Path("runs/stage1"))
    with monkeypatch.context() as patch:
        # Where the teacher embeds all dense texts.
        patch.setattr("vse.objective.teacher.embed_texts", fail)
        with pytest.raises(UserError, match="out of memory at a global batch of 16.*optim.chunk"):
            run(spec)
    assert run(spec)[-1]["event"] == "finish"


@pytest.mark.parametrize(
    ("gpu", "bf16", "expected"),
    [(True, True, "bf16"), (True, False, "fp16"), (False, False, "no")],
)
def test_precision_follows_the_machine(
    project: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, bf16: bool, expected: str
) -> None:
    asked: list[str] = []

    def stop(precision: str, **settings: Any) -> Accelerator:
        asked.append(precision)
        raise UserError("far enough")

    monkeypatch.setattr("torch.accelerator.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr("vse.training.run.start_accelerator", stop)
    with pytest.raises(UserError, match="far enough"):
        run(make("sparse", out=Path("runs/a"), overrides=("optim.precision=auto",)))
    assert asked == [expected]


def test_a_scale_at_its_limit_can_become_smaller(project: Path) -> None:
    """An InfoNCE that starts at a temperature of 0.005 is limited to 0.01 and still learns it."""
    run(make("1", out=Path("runs/a"), steps=8, overrides=("loss.temperature=0.005",)))
    scale = state("runs/a")["stage.model.logits.log_scale"].exp().item()
    assert 50 < scale < 99.999


def test_another_precision_is_told_when_a_run_continues(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make("sparse", out=Path("runs/a"), steps=8)
    with monkeypatch.context() as before:
        before.setattr("vse.training.run.choose_precision", lambda optim, report: "bf16")
        with pytest.raises(RuntimeError, match="pulled the plug"):
            train(spec, report=_interrupt_at_7)
    events: list[dict[str, Any]] = []
    train(spec, report=events.append)
    assert any("precision: bf16 -> no" in event.get("text", "") for event in events)


def test_clipping_of_scaled_gradients_without_fp16_is_said(project: Path) -> None:
    events = run(make("sparse", out=Path("runs/a"), steps=2, overrides=("optim.clip_scaled=true",)))
    assert any("clip_scaled has no effect" in event.get("text", "") for event in events)


def test_a_state_is_saved_between_log_entries_too(project: Path) -> None:
    often = ("optim.save_minutes=0.000001", "optim.log_every=1000", "optim.eval_every=1000")
    spec = make("sparse", out=Path("runs/a"), steps=8, overrides=often)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(spec, report=_interrupt_at_7)
    assert progress("runs/a")["step"] == 6


def test_the_memory_of_a_run_is_free_after_it(project: Path) -> None:
    """Stage 2 follows in the same process."""
    train(make("1", out=Path("runs/a"), steps=2), report=lambda event: None)
    gc.disable()
    try:
        train(make("1", out=Path("runs/b"), steps=2), report=lambda event: None)
        assert not [kept for kept in gc.get_objects() if type(kept) is D2SModel]
    finally:
        gc.enable()
