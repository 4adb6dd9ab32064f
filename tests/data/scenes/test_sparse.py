"""Sparse captions leave much untold, favour what is large and central, and say only what is so."""

import numpy as np

from data.scenes.folder import make_truth
from data.scenes.oracle import likelihood
from data.scenes.sparse import CAPTIONS_PER_IMAGE, Mention, sides
from data.scenes.world import Thing

TRUTHS = [make_truth(1, "train", index) for index in range(300)]


def test_five_captions_an_image_the_same_every_time() -> None:
    assert all(len(truth.captions) == CAPTIONS_PER_IMAGE for truth in TRUTHS)
    assert make_truth(1, "train", 7) == TRUTHS[7]
    assert make_truth(2, "train", 7) != TRUTHS[7]


def test_captions_tell_only_facts_of_their_scene() -> None:
    for truth in TRUTHS:
        for facts in truth.facts_told:
            assert facts
            assert facts <= truth.scene.facts()


def test_five_captions_overlap_and_leave_a_good_part_untold() -> None:
    facts = sum(len(truth.scene.facts()) for truth in TRUTHS)
    together = sum(len(frozenset.union(*truth.facts_told)) for truth in TRUTHS)
    each = sum(len(told) for truth in TRUTHS for told in truth.facts_told)
    assert 0.35 < 1 - together / facts < 0.55
    assert together < 0.7 * each


def test_large_things_are_named_more_often() -> None:
    named = {"large": 0, "small": 0}
    there = {"large": 0, "small": 0}
    for truth in TRUTHS:
        for thing in truth.scene.things:
            there[thing.size] += 1
        for told in truth.told:
            for mention in told.mentions:
                fitting = [t for t in truth.scene.things if _may_be(mention, t)]
                if len(fitting) == 1:
                    named[fitting[0].size] += 1
    assert named["large"] / there["large"] > 2 * named["small"] / there["small"]


def test_every_caption_is_possible_for_its_own_scene() -> None:
    for truth in TRUTHS[:50]:
        assert all(likelihood(told, truth.scene) > 0 for told in truth.told)


def test_words_vary() -> None:
    captions = [caption for truth in TRUTHS for caption in truth.captions]
    assert len(set(captions)) > 0.95 * len(captions)
    assert 8 < np.mean([len(caption.split()) for caption in captions]) < 16


def test_sides_are_coarse() -> None:
    assert sides(Thing("star", "red", "large", "plain", place=0)) == ("at the top", "on the left")
    assert sides(Thing("star", "red", "large", "plain", place=4)) == ("in the middle",)
    assert sides(Thing("star", "red", "large", "plain", place=5)) == ("on the right",)


def _may_be(mention: Mention, thing: Thing) -> bool:
    said = {a: getattr(mention, a) for a in ("shape", "colour", "size", "texture")}
    return all(value in (None, getattr(thing, name)) for name, value in said.items())
