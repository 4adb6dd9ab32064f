"""Real training steps on tiny towers: learning, resuming, stages, refusals."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.errors import UserError
from data.files.locks import keep_others_out
from tests.processes import FORK
from tests.vse.runs import make, run, run_and_die
from tests.vse.world import dense_of, write_dense, write_recipe
from tests.waiting import HANG_SECONDS
from vse.model.backbones import build_backbone
from vse.model.tokenizer import tokenizer as tokenizers
from vse.recipes.files import read_recipe
from vse.runs.folder import RunFolder, read_log
from vse.samples.discovery import DataPaths, find_input
from vse.training.health import CollapseWatch
from vse.training.run import train
from vse.training.spec import make_spec

EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def state(folder: str | Path) -> dict[str, torch.Tensor]:
    [path] = Path(folder, "state").glob("*.safetensors")
    return load_file(path)


def test_three_stages_learn(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=50, eval_every=25))
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=30, eval_every=30))
    run(make("sparse", out=Path("runs/sparse"), steps=50, eval_every=25))
    for name, chance in (("stage1", 2.77), ("stage2", 2.77), ("sparse", 2.77)):
        log = read_log(Path("runs", name))
        losses = [event["align"] for event in log if event["event"] == "step"]
        assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5
        assert sum(losses[-5:]) / 5 < chance  # ln 16
    found = [event for event in read_log(Path("runs/stage1")) if event["event"] == "evaluation"]
    assert found[-1]["chosen_by"] == "dense" and found[-1]["rsum"] == found[-1]["dense"]["rsum"]
    assert found[-1]["rsum"] > 2 * 100 * (1 + 5 + 8) / 8  # eight images in any order
    distill = [e["distill"] for e in read_log(Path("runs/stage2")) if e["event"] == "step"]
    assert distill[-1] < distill[0]


def test_killed_and_continued_equals_never_stopped(project: Path) -> None:
    whole, cut = make("1", out=Path("runs/whole")), make("1", out=Path("runs/cut"))
    run(whole)
    run_and_die(cut, at=3)  # before anything was saved
    run_and_die(cut, at=7)  # after the state of step 4
    events = run(cut)
    assert next(e for e in events if e["event"] == "resume")["step"] == 4
    torch.testing.assert_close(weights("runs/cut"), weights("runs/whole"), **EXACT)
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)
    logs = [
        [(e["event"], e["step"], e.get("loss"), e.get("rsum")) for e in read_log(Path("runs", n))]
        for n in ("whole", "cut")
    ]
    assert logs[0] == [entry for entry in logs[1] if entry[0] != "resume"]


def test_stage_2_killed_and_continued(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4))
    specs = [make("2", out=Path("runs", n), init=Path("runs/stage1")) for n in ("whole", "cut")]
    run(specs[0])
    run_and_die(specs[1], at=6)
    run(specs[1])
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)


def test_teachers_computed_in_each_step(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4))
    losses, moved = {}, {}
    for mode in ("cached", "online-eval", "online-train"):
        spec = make(
            "2",
            out=Path("runs", mode),
            init=Path("runs/stage1"),
            overrides=(f"teacher.mode={mode}",),
        )
        if mode == "online-train":
            run_and_die(spec, at=6)
        run(spec)
        losses[mode] = [e["loss"] for e in read_log(Path("runs", mode)) if e["event"] == "step"]
        mean = state(Path("runs", mode)).get("stage.teacher.tower.mlp.1.running_mean")
        start = weights("runs/stage1")["text.mlp.1.running_mean"]
        moved[mode] = mean is not None and not torch.equal(mean, start)
    assert losses["online-eval"] == pytest.approx(losses["cached"], rel=1e-4)
    assert losses["online-train"] != pytest.approx(losses["cached"], rel=1e-2)
    assert moved == {"cached": False, "online-eval": False, "online-train": True}
    spec = make(
        "2",
        out=Path("runs/whole"),
        init=Path("runs/stage1"),
        overrides=("teacher.mode=online-train",),
    )
    run(spec)
    torch.testing.assert_close(state("runs/online-train"), state("runs/whole"), **EXACT)


def test_a_run_from_before_a_setting_existed_goes_on(project: Path) -> None:
    run(make("sparse", out=Path("runs/a"), steps=4))
    path = Path("runs/a/config.json")
    config = json.loads(path.read_text())
    for recipe in (config["recipe"], config["fingerprint"]["recipe"]):
        del recipe["teacher"], recipe["data"]["sentences"]
    path.write_text(json.dumps(config))
    assert [e["event"] for e in run(make("sparse", out=Path("runs/a"), steps=4))] == [
        "finished before"
    ]
    with pytest.raises(UserError, match="teacher.mode: cached -> online-eval"):
        run(make("sparse", out=Path("runs/a"), steps=4, overrides=("teacher.mode=online-eval",)))


def test_the_state_is_saved_between_evaluations_too(project: Path) -> None:
    settings: dict[str, Any] = {"eval_every": 12}
    run(make("sparse", out=Path("runs/whole"), **settings))
    run_and_die(make("sparse", out=Path("runs/cut"), **settings), at=7)
    assert not Path("runs/cut/state/progress.json").exists()
    often = make("sparse", out=Path("runs/cut"), save_minutes=1e-9, **settings)
    run_and_die(often, at=7)
    # How often is no difference between two runs.
    events = run(make("sparse", out=Path("runs/cut"), **settings))
    assert next(e for e in events if e["event"] == "resume")["step"] == 6
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)


def test_a_signal_saves_the_state_of_that_very_step(project: Path) -> None:
    def stop_at_6(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    run(make("sparse", out=Path("runs/whole")))
    spec = make("sparse", out=Path("runs/cut"))
    with pytest.raises(KeyboardInterrupt):
        train(spec, report=stop_at_6)
    events = run(spec)
    assert next(e for e in events if e["event"] == "resume")["step"] == 6
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)


def test_a_signal_during_the_last_evaluation_stops_before_another_stage(project: Path) -> None:
    def stop_at_the_end(event: dict[str, Any]) -> None:
        if event["event"] == "evaluation":
            os.kill(os.getpid(), signal.SIGTERM)

    spec = make("1", out=Path("runs/a"), steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, report=stop_at_the_end)
    assert [event["event"] for event in run(spec)] == ["finished before"]


def test_the_cache_is_no_run(project: Path) -> None:
    """Its lock would be that of the run, which would wait for itself."""
    with pytest.raises(UserError, match="cache"):
        make("1", out=Path("runs/cache"))


def test_a_finished_run_does_nothing(project: Path) -> None:
    spec = make("sparse", out=Path("runs/a"), steps=4)
    run(spec)
    before = {p: p.stat().st_mtime_ns for p in Path("runs/a").rglob("*")}
    assert [event["event"] for event in run(spec)] == ["finished before"]
    assert {p: p.stat().st_mtime_ns for p in Path("runs/a").rglob("*")} == before


def test_a_finished_run_whose_state_was_deleted_is_finished_all_the_same(project: Path) -> None:
    spec = make("sparse", out=Path("runs/a"), steps=4)
    run(spec)
    known, model = RunFolder(spec.out).read_progress(), Path("runs/a/model.safetensors")
    written = model.stat().st_mtime_ns
    shutil.rmtree("runs/a/state")
    done = train(spec, report=lambda event: None)
    assert known is not None
    for name in ("step", "best_step", "best_rsum", "finished", "seconds"):
        assert getattr(done, name) == getattr(known, name), name
    assert model.stat().st_mtime_ns == written and not Path("runs/a/state").exists()


def test_a_run_tells_which_images_it_does_without(project: Path) -> None:
    run(make("sparse", out=Path("runs/whole"), steps=2))
    assert not Path("runs/whole/left_out.jsonl").exists()
    [gone, *_] = sorted(project.glob("world/train/*"))
    gone.unlink()
    run(make("sparse", out=Path("runs/less"), steps=2, overrides=("data.max_missing=0.5",)))
    [line] = Path("runs/less/left_out.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert (told["split"], told["name"]) == ("train", f"train/{gone.name}")
    assert told["reason"].startswith("no file in")


def test_a_second_run_in_the_same_folder_is_refused(project: Path) -> None:
    spec = make("sparse", out=Path("runs/a"), overrides=("data.workers=1",))
    refused = []

    def start_another(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == 5:
            process = FORK.Process(target=run, args=(spec,))
            process.start()
            process.join(timeout=HANG_SECONDS)
            refused.append(process.exitcode)
            with pytest.raises(UserError, match="another process is training in runs/a: .*--out"):
                train(spec, report=lambda event: None)

    train(spec, report=start_another)
    assert refused == [1]
    assert run(spec)[0]["event"] == "finished before"


def test_a_loader_process_that_lives_on_holds_no_lock(tmp_path: Path) -> None:
    """Loader processes are forked in the middle of training, so this one is too."""
    reader, writer = os.pipe()
    with keep_others_out(tmp_path, warn=pytest.fail):
        child = os.fork()
        if child == 0:
            os.write(writer, b"here")
            time.sleep(600)
            os._exit(0)
    try:
        assert os.read(reader, 4) == b"here"
        with keep_others_out(tmp_path, warn=pytest.fail):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(project: Path) -> None:
    run(make("sparse", out=Path("runs/a"), steps=4))
    with pytest.raises(UserError, match=r"optim.lr: 0.003 -> 0.5.*--out"):
        run(make("sparse", out=Path("runs/a"), steps=4, lr=0.5))
    with pytest.raises(UserError, match="stage: sparse -> 1"):
        run(make("1", out=Path("runs/a"), steps=4))
    Path("dense/world").rename("dense/old")
    texts = {**dense_of(Path("world")), "train/000.png": "something else"}
    run(make("1", out=Path("runs/b"), steps=4))
    write_dense(Path("dense/new"), Path("world"), texts)
    Path("dense/old").rename("old")
    with pytest.raises(UserError, match="contains a run with other settings .data: "):
        run(make("1", out=Path("runs/b"), steps=4))


def test_a_run_that_came_to_nothing_leaves_its_folder_free(project: Path) -> None:
    write_recipe(Path("tiny.yaml"), optim={"clip": 1e30})
    with pytest.raises(UserError, match="became NaN"):
        run(make("sparse", out=Path("runs/a"), lr=1e30, backbone_lr=1e30))
    # Other settings, another vocabulary, and the tokenizer torn by a crash.
    Path("runs/a/tokenizer/tokenizer.json").write_text('{"version"')
    spec = make("sparse", out=Path("runs/a"), steps=4, overrides=("text.vocab_size=120",))
    assert run(spec)[-1]["event"] == "finish"
    config = json.loads(Path("runs/a/config.json").read_text())
    assert config["recipe"]["optim"]["steps"] == 4
    assert tokenizers.load(Path("runs/a/tokenizer")).vocab_size <= 120
    with pytest.raises(UserError, match="optim.lr: 0.003 -> 0.5"):
        run(make("sparse", out=Path("runs/a"), steps=4, lr=0.5))


def test_the_tokenizer_is_written_whole_and_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_and_die(make("sparse", out=Path("runs/a")), at=5)
    path = Path("runs/a/tokenizer/tokenizer.json")
    before = path.stat()
    run(make("sparse", out=Path("runs/a")))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    tokenizer = tokenizers.load(path.parent)
    path.write_text("torn")

    def fail(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.files.atomic.os.replace", fail)
    with pytest.raises(UserError, match="the disk is full"):
        tokenizers.save(tokenizer, path.parent)
    assert path.read_text() == "torn" and [p.name for p in path.parent.iterdir()] == [path.name]


def test_where_files_lie_and_how_a_run_goes_may_change(project: Path) -> None:
    run_and_die(make("sparse", out=Path("runs/a")), at=5)
    Path("world").rename("moved")
    config = json.loads(Path("dense/world/run.json").read_text())
    config["images"] = str(Path("moved").resolve())
    Path("dense/world/run.json").write_text(json.dumps(config))
    events = run(make("sparse", out=Path("runs/a"), overrides=("data.workers=1",)))
    assert events[-1]["event"] == "finish"


def test_other_versions_than_before_are_told_and_logged(project: Path) -> None:
    run_and_die(make("sparse", out=Path("runs/a")), at=5)
    path = Path("runs/a/config.json")
    config = json.loads(path.read_text())
    config["versions"]["torch"] = "0.1"
    path.write_text(json.dumps(config))
    events = run(make("sparse", out=Path("runs/a")))
    for found in (events, read_log(Path("runs/a"))):
        told = [event["text"] for event in found if "versions" in event.get("text", "")]
        assert len(told) == 1 and "torch: 0.1 -> " in told[0] and "numpy" not in told[0]


def test_stage_2_starts_from_stage_1(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4))
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=1, lr=0.0,
             backbone_lr=0.0))  # fmt: skip
    before, after = weights("runs/stage1"), weights("runs/stage2")
    assert [key for key in after if key.startswith("decoder.")]
    moving = ("running_mean", "running_var", "num_batches_tracked")
    for key, value in before.items():
        if not key.endswith(moving):
            torch.testing.assert_close(after[key], value, **EXACT)


def test_stage_2_refuses_what_is_not_a_finished_stage_1(project: Path) -> None:
    with pytest.raises(UserError, match="no trained stage 1.*--init"):
        make("2", out=Path("runs/stage2"), init=Path("runs/stage1"))
    run_and_die(make("1", out=Path("runs/stage1")), at=5)
    with pytest.raises(UserError, match="stage 1 in runs/stage1 is not finished"):
        make("2", out=Path("runs/stage2"), init=Path("runs/stage1"))


def test_stage_2_refuses_a_run_of_another_stage(project: Path) -> None:
    run(make("sparse", out=Path("runs/sparse"), steps=1))
    with pytest.raises(UserError, match="runs/sparse contains a run of stage sparse.*--init"):
        make("2", out=Path("runs/stage2"), init=Path("runs/sparse"))
    paths = find_input(images=None, captions=None, dense=None, wants_dense=True)
    with pytest.raises(UserError, match="runs/sparse contains a run of stage sparse.*--init"):
        make_spec(stage="2", out=Path("runs/stage2"), raw=read_recipe("tiny.yaml"), overrides=(),
                  options={}, paths=paths, init=Path("runs/sparse"), limit=None)  # fmt: skip


def test_stage_2_refuses_towers_of_another_shape(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4))
    spec = make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), overrides=("width=64",))
    with pytest.raises(UserError, match="towers of runs/stage1 differ from those of this recipe"):
        run(spec)


def test_pretrained_towers_are_needed_only_for_the_first_start(project: Path) -> None:
    settings = read_recipe("tiny.yaml")["image"]["config"]
    build_backbone(settings).model.save_pretrained("towers/vit")  # type: ignore[operator]
    write_recipe(Path("tiny.yaml"), image={"config": None, "name": "towers/vit"})
    run(make("1", out=Path("runs/stage1"), steps=4))
    run_and_die(make("sparse", out=Path("runs/sparse")), at=5)
    Path("towers").rename("gone")
    with pytest.raises(UserError, match="towers/vit"):
        run(make("1", out=Path("runs/new"), steps=4))
    assert run(make("sparse", out=Path("runs/sparse")))[-1]["event"] == "finish"
    spec = make("2", out=Path("runs/stage2"), init=Path("runs/stage1"))
    run_and_die(spec, at=5)
    assert run(spec)[-1]["event"] == "finish"


def test_sparse_reads_no_dense_text(project: Path) -> None:
    run(make("sparse", out=Path("runs/a"), steps=4))
    for path in Path("dense/world").glob("*.parquet"):
        path.write_bytes(b"unreadable")
    run(make("sparse", out=Path("runs/b"), steps=4))
    torch.testing.assert_close(weights("runs/a"), weights("runs/b"), **EXACT)
    vocabulary = Path("runs/a/tokenizer/tokenizer.json").read_text()
    assert '"square"' in vocabulary and '"shows"' not in vocabulary  # a word of dense texts only


def test_the_baseline_leaves_broken_pictures_out(project: Path) -> None:
    Path("world/train/003.png").write_bytes(b"not an image")
    Path("dense").rename("elsewhere")
    paths = DataPaths(Path("world"), Path("world/dataset_world.json"), None)
    spec = make_spec(stage="sparse", out=Path("runs/a"), raw=read_recipe("tiny.yaml"),
                     overrides=("data.cache_images=false",), options={"optim__steps": 4},
                     paths=paths, init=None, limit=None)  # fmt: skip
    assert spec.length.items == 47
    assert any("left out 1 of 48 train images: the file cannot" in n for n in spec.corpus.notes)
    assert run(spec)[-1]["event"] == "finish"


def test_the_baseline_leaves_out_what_the_captioner_could_not_read(project: Path) -> None:
    path = Path("world/train/003.png")
    path.write_bytes(path.read_bytes()[:60])  # the header is whole
    shutil.rmtree("dense/world")
    texts: dict[str, str | None] = {**dense_of(Path("world")), "train/003.png": None}
    statuses = {"train/003.png": "decode_error"}
    write_dense(Path("dense/world"), Path("world"), texts, statuses=statuses)
    spec = make("sparse", out=Path("runs/a"), steps=4)
    assert spec.length.items == 47
    assert any("left out 1 of 48 train images: the captioner" in n for n in spec.corpus.notes)
    assert run(spec)[-1]["event"] == "finish"


def test_the_best_evaluation_is_kept_not_the_last(project: Path) -> None:
    # The second half undoes the first: at such a rate nothing survives.
    write_recipe(Path("tiny.yaml"), optim={"schedule": "step", "milestones": [10], "gamma": 300.0})
    run(make("sparse", out=Path("runs/a"), steps=60, eval_every=15))
    found = [e for e in read_log(Path("runs/a")) if e["event"] == "evaluation"]
    best = max(found, key=lambda event: event["rsum"])
    progress = json.loads(Path("runs/a/state/progress.json").read_text())
    assert progress["best_step"] == best["step"] < 60
    saved = state("runs/a")
    kept = weights("runs/a")
    assert any(not torch.equal(kept[key], saved[f"stage.model.{key}"]) for key in kept)


def test_as_released_the_test_split_picks_the_best_and_a_warning_says_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make("sparse", out=Path("runs/a"), steps=4, overrides=("data.select_split=test",))
    # Nothing of the validation split is asked for.
    shutil.rmtree("world/val")
    events = run(spec)
    [warning] = [event["text"] for event in events if event["event"] == "warning"]
    assert "selected on the test split" in warning and "optimistic" in warning
    from pipelines.cli import run as run_command

    assert run_command(["evaluate", "--model", "runs/a"]) == 0
    assert "selected by their rSum on this split (test)" in capsys.readouterr().err
    figures = json.loads(Path("runs/a/eval-test.json").read_text())
    found = [e["rsum"] for e in read_log(Path("runs/a")) if e["event"] == "evaluation"]
    assert figures["rsum"] == pytest.approx(max(found)) and figures["picked_on"] == "test"


def test_not_a_number_is_detected_and_named(project: Path) -> None:
    write_recipe(Path("tiny.yaml"), optim={"clip": 1e30})
    with pytest.raises(UserError, match="became NaN or infinite shortly before step .*optim.lr"):
        run(make("sparse", out=Path("runs/a"), lr=1e30, backbone_lr=1e30))
    assert not Path("runs/a/model.safetensors").exists()


def test_a_collapse_is_detected_and_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vse.training.trainer.CollapseWatch", lambda: CollapseWatch(patience=6))
    # Beside a margin of 100, cosines are as good as equal from the start.
    settings: dict[str, Any] = {"lr": 1e-6, "backbone_lr": 1e-6}
    loss = ("loss.align=hinge", "loss.sum_epochs=0", "loss.margin=100")
    with pytest.raises(UserError, match="the hinge has collapsed.*loss.align=infonce"):
        run(make("sparse", out=Path("runs/a"), overrides=loss, **settings))
    # What the message advises works in that very folder.
    events = run(
        make("sparse", out=Path("runs/a"), overrides=(*loss, "loss.on_collapse=warn"), **settings)
    )
    assert next(e for e in events if e["event"] == "resume")["step"] == 4
    assert len([e for e in events if e["event"] == "warning"]) == 1
    assert events[-1]["event"] == "finish"


def test_a_collapse_of_infonce_is_detected_and_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vse.training.trainer.CollapseWatch", lambda: CollapseWatch(patience=6))
    # So hot that cosines make no difference, and at no learning rate.
    settings: dict[str, Any] = {"lr": 0.0, "backbone_lr": 0.0, "steps": 8}
    loss = ("loss.temperature=1000",)
    with pytest.raises(UserError, match="contrastive loss has collapsed.*at 2.77.*optim.lr"):
        run(make("sparse", out=Path("runs/a"), overrides=loss, **settings))
    # Raising the rate slowly is given its time.
    events = run(make("sparse", out=Path("runs/b"), overrides=loss, warmup_steps=4, **settings))
    assert events[-1]["event"] == "finish"


def test_loader_processes_give_the_same_run_and_plain_errors(project: Path) -> None:
    files = ("data.cache_images=false",)
    run(make("sparse", out=Path("runs/a"), steps=4, overrides=files))
    run(make("sparse", out=Path("runs/b"), steps=4, overrides=(*files, "data.workers=2")))
    torch.testing.assert_close(state("runs/a"), state("runs/b"), **EXACT)

    def spoil(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            for path in Path("world/train").iterdir():
                path.write_bytes(b"not an image")

    spec = make("sparse", out=Path("runs/c"), overrides=(*files, "data.workers=1"))
    with pytest.raises(UserError, match=r"^world/train/\d+.png cannot be read as an image"):
        train(spec, report=spoil)


def test_without_validation_images_the_last_weights_are_kept(project: Path) -> None:
    rows = json.loads(Path("world/dataset_world.json").read_text())
    rows["images"] = [row for row in rows["images"] if row["split"] != "val"]
    Path("world/dataset_world.json").write_text(json.dumps(rows))
    events = run(make("sparse", out=Path("runs/a"), steps=4))
    assert any("no validation split" in e.get("text", "") for e in events)
    kept, saved = weights("runs/a"), state("runs/a")
    torch.testing.assert_close(kept, {key: saved[f"stage.model.{key}"] for key in kept}, **EXACT)


def test_a_cold_student_has_the_teacher_and_nothing_else_of_stage_1(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4))
    still: dict[str, Any] = {"steps": 1, "lr": 0.0, "backbone_lr": 0.0}
    tables, moved = {}, {}
    for warm in ("true", "false"):
        overrides = (f"teacher.warm_start={warm}",)
        out = Path("runs", warm)
        run(make("2", out=out, init=Path("runs/stage1"), overrides=overrides, **still))
        before, after = weights("runs/stage1"), weights(out)
        moved[warm] = not torch.equal(before["text.fc.weight"], after["text.fc.weight"])
        tables[warm] = {p.name for p in Path("runs/cache").glob("teacher-*")}
    assert moved == {"true": False, "false": True}
    assert tables["true"] == tables["false"], "both have the same teacher"


def test_a_cold_student_goes_on_where_it_stopped(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4))
    cold = ("teacher.warm_start=false",)
    specs = [
        make("2", out=Path("runs", name), init=Path("runs/stage1"), overrides=cold)
        for name in ("whole", "cut")
    ]
    run(specs[0])
    run_and_die(specs[1], at=6)
    run(specs[1])
    torch.testing.assert_close(state("runs/cut"), state("runs/whole"), **EXACT)


def test_several_texts_an_image_and_the_image_distilled(project: Path) -> None:
    run(make("1", out=Path("runs/stage1"), steps=4, overrides=("data.texts_per_step=2",)))
    found = {}
    for target in ("dense", "image"):
        changes = ("data.texts_per_step=2", f"loss.distill_image={target}")
        spec = make("2", out=Path("runs", target), init=Path("runs/stage1"), overrides=changes)
        losses = [e["distill_image"] for e in run(spec) if e["event"] == "step"]
        assert all(0 < loss < 2 for loss in losses)
        found[target] = losses
    # Nothing moves in a step without a rate: v is what the teacher made of the image.
    still: dict[str, Any] = {"steps": 1, "lr": 0.0, "backbone_lr": 0.0}
    whole = ("loss.distill_image=image", "data.crop_min=1.0", "image.token_drop=0.0")
    spec = make("2", out=Path("runs/still"), init=Path("runs/stage1"), overrides=whole, **still)
    [own] = [e["distill_image"] for e in run(spec) if e["event"] == "step"]
    assert own == pytest.approx(0.0, abs=1e-5) and found["dense"][0] > found["image"][0]
    with pytest.raises(UserError, match="counts captions.*data.items=images"):
        captions = ("data.texts_per_step=2", "data.items=captions")
        make("2", out=Path("runs/x"), init=Path("runs/stage1"), overrides=captions)
