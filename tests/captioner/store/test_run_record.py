"""Two settings are the same run or are told apart in words."""

from captioner.store.run_record import make_fingerprint

SETTINGS = {"model": "m", "sampling": {"temperature": 0.2, "seed": 0}, "limit": None}


def test_order_does_not_matter_and_every_value_does() -> None:
    again = {"limit": None, "sampling": {"seed": 0, "temperature": 0.2}, "model": "m"}
    assert make_fingerprint(SETTINGS) == make_fingerprint(again)
    others = [
        {**SETTINGS, "model": "n"},
        {**SETTINGS, "sampling": {"temperature": 0.2, "seed": 1}},
        {**SETTINGS, "limit": 0},
    ]
    assert len({make_fingerprint(settings) for settings in [SETTINGS, *others]}) == 4
