"""The oracle: exact probabilities, chance among equals, and a bound that no ranking passes."""

import pytest

from data.scenes.folder import make_truth
from data.scenes.oracle import compute_oracle, likelihood
from data.scenes.sparse import Mention, Told
from data.scenes.world import Scene, Thing


def mention(
    shape: str,
    colour: str | None = None,
    size: str | None = None,
    texture: str | None = None,
    side: str | None = None,
) -> Mention:
    return Mention(shape, colour, size, texture, side)


def scene(index: int, *things: Thing, ground: str = "sand") -> Scene:
    return Scene("test", index, ground, things)


STAR = Thing("star", "red", "small", "plain", place=0)  # salience 1.0
MOON = Thing("moon", "blue", "large", "striped", place=4)  # salience 12.0


def test_likelihood_by_hand() -> None:
    here = scene(0, STAR, MOON)
    assert likelihood(Told((mention("star"),), None, None), here) == pytest.approx(1 / 13)
    # Both named, the moon first: 12/13, then the star, the only one left. Striped, yet not said.
    both = Told((mention("moon"), mention("star")), None, None)
    assert likelihood(both, here) == pytest.approx(12 / 13 * 0.65)
    assert likelihood(
        Told((mention("moon", texture="striped"),), None, None), here
    ) == pytest.approx(12 / 13)
    assert likelihood(
        Told((mention("star", side="at the top"),), None, None), here
    ) == pytest.approx(1 / 26)


@pytest.mark.parametrize(
    "told",
    [
        Told((mention("heart"),), None, None),
        Told((mention("star", colour="blue"),), None, None),
        Told((mention("star", size="large"),), None, None),
        Told((mention("star", texture="striped"),), None, None),
        Told((mention("star", side="on the right"),), None, None),
        Told((mention("star"),), None, "grass"),
        Told((mention("star"), mention("moon")), "below", None),
        Told((mention("star"), mention("star")), None, None),
    ],
)
def test_what_is_not_so_is_impossible(told: Told) -> None:
    assert likelihood(told, scene(0, STAR, MOON)) == 0


def test_equal_scenes_give_chance() -> None:
    twins = [scene(0, STAR, MOON), scene(1, STAR, MOON)]
    caption = Told((mention("star"),), None, None)
    oracle = compute_oracle(twins, [[caption], [caption]])
    assert (oracle.t2i_r1, oracle.i2t_r1) == (50.0, 50.0)


def test_distinct_scenes_give_certainty() -> None:
    scenes = [scene(0, STAR), scene(1, MOON)]
    oracle = compute_oracle(
        scenes, [[Told((mention("star"),), None, None)], [Told((mention("moon"),), None, None)]]
    )
    assert (oracle.t2i_r1, oracle.i2t_r1) == (100.0, 100.0)


def test_the_world_leaves_something_to_win() -> None:
    truths = [make_truth(0, "test", index) for index in range(200)]
    oracle = compute_oracle([t.scene for t in truths], [t.told for t in truths])
    assert 40 < oracle.t2i_r1 < 100
    assert oracle.captions == 1000
