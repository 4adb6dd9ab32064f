"""The tables that come with the package: their settings exist, their figures are the paper's."""

from pathlib import Path

import pytest

from data.errors import UserError
from pipelines.experiments.ablation_table import Row, read_table, read_tables, shipped_tables
from pipelines.experiments.trainings import AblationSetup, find_training, list_jobs
from vse.recipes.files import read_recipe, resolve

STEPS = {"1": 600, "2": 400}


def setting(recipe: str) -> AblationSetup:
    return AblationSetup(recipe=recipe, raw=read_recipe(recipe), data=("--images", "x"),
                   dense=("--dense", "y"), steps=STEPS)  # fmt: skip


def test_the_papers_figures() -> None:
    found = {
        name: {row.name: row.paper for row in read_table(name).rows}
        for name in ("stages", "distance", "placement", "depth")
    }
    assert list(found["stages"].values()) == [425.2, 509.5, 512.1, 525.7, 531.9]
    assert found["distance"] == {"L1": 528.9, "L2": 530.2, "cosine": 531.9}
    assert found["placement"] == {"prefix": 529.3, "postfix": 529.5, "surround": 531.9}
    assert found["depth"] == {"0": None, "1": None, "2": None, "4": 531.9, "6": None}


@pytest.mark.parametrize("recipe", ["paper", "scenes"])
@pytest.mark.parametrize("name", shipped_tables())
def test_every_row_has_settings_that_exist(name: str, recipe: str) -> None:
    table = read_table(name)
    found = {row.name: find_training(row, setting(recipe)) for row in table.rows}
    names = [training.name for training in found.values()]
    # A row is a training of its own, unless the recipe is so already.
    assert len(set(names)) == len(set(found.values()))
    plain = [training for training in found.values() if training.name == "stage2"]
    assert len(plain) <= 2


def test_rows_of_equal_settings_are_one_training() -> None:
    tables = [read_table(name) for name in ("stages", "distance", "placement", "depth")]
    jobs = list_jobs(tables, setting("scenes"), (0, 1, 2))
    names = [job.name for job in jobs]
    assert len(names) == len(set(names))
    # Stage 1, five rows of stages, two of the others each, four depths besides the recipe's 2.
    assert len(names) == 3 * (1 + 4 + 2 + 2 + 4)
    assert [job.name for job in jobs if not job.needs] == [
        f"runs/stage1-seed-{s}" for s in (0, 1, 2)
    ]
    assert all(need in names[: names.index(job.name)] for job in jobs for need in job.needs)
    # Four is the paper's own depth: there the same tables have two besides 0, 1, 2 and 6.
    assert len(list_jobs(tables, setting("paper"), (0,))) == 1 + 4 + 2 + 2 + 4


def test_commands_say_what_is_changed_and_no_more() -> None:
    [first, cold, *_, full] = [
        job for job in list_jobs([read_table("stages")], setting("scenes"), (7,))
    ]
    line = first.commands[0].line
    assert "--recipe scenes" in line and "--steps 600" in line and "--seed 7" in line
    assert cold.commands[0].arguments[-4:] == (
        "--set", "loss.distill_weight=0.0", "--set", "teacher.warm_start=false",
    )  # fmt: skip
    assert "--steps 1000" in cold.commands[0].line and "--recipe" not in cold.commands[0].line
    assert full.name == "runs/stage2-seed-7"
    assert full.commands[0].line.endswith("--set loss.on_collapse=warn")
    assert [job.commands[-1].arguments[0] for job in (first, cold, full)] == ["evaluate"] * 3


def test_what_the_user_sets_holds_for_every_row() -> None:
    changed = AblationSetup(
        recipe="scenes",
        raw=read_recipe("scenes"),
        data=(),
        dense=(),
        steps=STEPS,
        overrides=("loss.distill=l1", "width=64"),
    )
    table = read_table("distance")
    found = {row.name: find_training(row, changed) for row in table.rows}
    assert found["L1"].changes == () and found["cosine"].changes == (("loss.distill", '"cosine"'),)
    [command, *_] = list_jobs([table], changed, (0,))[0].commands
    assert "--set loss.distill=l1 --set width=64" in command.line


def test_stage_2_is_compared_with_the_towers_that_it_inherits() -> None:
    px = resolve(read_recipe("scenes"), stage="2").image.px
    smaller, back = (
        find_training(Row(name="x", stage1={"image.px": 64}, stage2=stage2), setting("scenes"))
        for stage2 in ({}, {"image.px": px})
    )
    assert px != 64 and smaller.changes == ()
    # Without it, stage 2 would train with 64 too.
    assert back.changes == (("image.px", str(px)),)
    assert smaller.init == back.init and smaller.name != back.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x", "has no rows"),
        (
            "rows: [{name: a, reference: true, stage: joint, stage1: {width: 8}}]",
            "stage1 has no effect with stage 'joint'",
        ),
        (
            "rows: [{name: a, reference: true, stage: sparse, all_steps: true}]",
            "all_steps has no effect with stage 'sparse'",
        ),
        (
            "rows: [{name: a, reference: true, stage: '1', stage2: {width: 8}}]",
            "stage2 has no effect with stage '1'",
        ),
        (
            "rows: [{name: a, reference: true, stage: '1', all_steps: true}]",
            "all_steps has no effect with stage '1'",
        ),
        ("notes: A note.\nrows: [{name: a, reference: true}]", "notes must be a list"),
        ("rows: [{name: a}]", "exactly one row must have reference"),
        ("rows: [{name: a, reference: true}, {name: a}]", "same name"),
        ("rows: [{name: a, reference: true, stag: 1}]", "did you mean t.yaml: rows[0].stage"),
        ("rows: [{name: a, reference: true, stage: '3'}]", "stages are 1, 2, joint, sparse"),
        ("title: x\nrow: 3\nrows: [{name: a, reference: true}]", "unknown key 'row'"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_table(str(tmp_path / "t.yaml"))
    assert message in str(caught.value)


def test_two_tables_with_one_page_are_refused(tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text("rows: [{name: a, reference: true}]")
    assert [table.name for table in read_tables(["depth", "all"])] == [
        "depth", *(name for name in shipped_tables() if name != "depth"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="2 tables are called stages"):
        read_tables(["all", str(tmp_path / "stages.yaml")])


def test_no_such_table_or_setting() -> None:
    with pytest.raises(UserError, match="no table 'stage': use one of depth, distance"):
        read_table("stage")
    row = read_table("distance").rows[0]
    wrong = type(row)(name="x", stage2={"loss.distil": "l1"})
    with pytest.raises(UserError, match="did you mean loss.distill"):
        find_training(wrong, setting("scenes"))
