"""Tables of results for a terminal."""

import pytest

from vse.evaluation.comparison import Table, make_tables, write_text

FIGURES = [f"{way}_{key}" for way in ("i2t", "t2i") for key in ("r1", "r5", "r10")]
RANKS = [f"{way}_{which}_rank" for way in ("i2t", "t2i") for which in ("median", "mean")]


def result(model: str, **more: object) -> dict[str, object]:
    """As `d2s evaluate` has it; each figure unlike the others."""
    values = {key: 10.5 + number for number, key in enumerate([*FIGURES, *RANKS])}
    about = {"dataset": "coco", "split": "test", "images": 5000, "captions": 25000, "px": 384}
    return {"model": model, "rsum": 510.25, **values, **about, **dict.fromkeys(
        ("folds", "eccv_caption", "cxc")), **more}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("model", ["runs/stage2", "open_clip:ViT-B-32/laion2b_s34b_b79k"])
def test_a_table_fits_the_terminal_and_loses_no_figure(model: str, width: int) -> None:
    spread = dict.fromkeys([*FIGURES, "rsum"], 80.5)
    folds = {"px": 384, "count": 5, "images": [1000] * 5, "mean": spread, "deviation": spread}
    tables = make_tables([result(model, folds=folds), result("b", folds=folds)], ranks=True)
    text = write_text(tables, width=width)
    lines = [line for line in text.splitlines() if line not in {table.title for table in tables}]
    assert max(map(len, lines)) <= width
    for table in tables:
        for row in table.rows:
            assert all(cell in text for cell in row)
        assert all(word in text for name in table.head for word in name.split())


def test_columns_that_do_not_fit_stand_below_beside_their_model() -> None:
    table = Table("t", ("model", "input", "R@1", "R@5"), (("m", "96 px", "1.0", "5.0"),))
    assert write_text([table], width=20).splitlines() == [
        "t",
        "model  input  R@1",
        "m      96 px  1.0",
        "",
        "model  input  R@5",
        "m      96 px  5.0",
    ]
