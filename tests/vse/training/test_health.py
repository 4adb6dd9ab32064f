"""Collapse and losses that are no numbers, told from figures alone."""

import math

import pytest

from data.errors import UserError
from vse.training.health import CollapseWatch, check_finite


def test_collapse_is_told_once_after_the_patience() -> None:
    watch = CollapseWatch(patience=30)
    told = [watch.update(25.65, 25.6, steps=10) for _ in range(5)]
    assert told == [False, False, True, False, False]


def test_passing_the_value_or_leaving_it_is_no_collapse() -> None:
    watch = CollapseWatch(patience=30)
    values = [25.6, 25.6, 20.0, 25.6, 25.6, 27.0]
    assert not any(watch.update(value, 25.6, steps=10) for value in values)


def test_a_start_from_random_towers_is_no_collapse() -> None:
    watch = CollapseWatch()
    start = math.log(64)
    values = [start] * 10 + [start * (1 - 0.01 * k) for k in range(1, 20)]
    assert not any(watch.update(value, start, steps=10) for value in values)
    assert CollapseWatch().update(start, start, steps=200)


def test_a_loss_without_a_collapsed_value_never_collapses() -> None:
    watch = CollapseWatch(patience=1)
    assert not any(watch.update(0.0, 0.0, steps=10) for _ in range(3))


def test_the_part_that_is_no_number_is_named() -> None:
    with pytest.raises(UserError, match="'distill' became NaN or infinite shortly before step 7"):
        check_finite({"loss": math.nan, "align": 1.0, "distill": math.nan}, 1.0, step=7)
    with pytest.raises(UserError, match="the gradient norm became NaN"):
        check_finite({"loss": 1.0}, math.inf, step=7)
    # Under fp16 the scaler skips such a step and lowers its scale, which must come to an end.
    check_finite({"loss": 1.0}, math.inf, step=7, scale=512.0)
    with pytest.raises(UserError, match="the gradient norm, in every recent step"):
        check_finite({"loss": 1.0}, math.inf, step=7, scale=2.0**-12)
    with pytest.raises(UserError, match="'loss' became NaN"):
        check_finite({"loss": math.nan}, math.inf, step=7, scale=512.0)
