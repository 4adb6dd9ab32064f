"""Two settings are the same run or are told apart in words."""

from captioner.store.fingerprint import explain_difference, make_fingerprint

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


def test_the_difference_names_what_and_how() -> None:
    asked = {"model": "m", "sampling": {"temperature": 0.0, "seed": 0}, "dtype": "float32"}
    assert explain_difference(SETTINGS, asked) == (
        "sampling.temperature is 0.2 there and 0.0 here; limit is null there and not set here; "
        'dtype is not set there and "float32" here'
    )
    assert explain_difference(SETTINGS, SETTINGS) == ""


def test_long_values_are_cut() -> None:
    text = explain_difference({"prompt": "x" * 500}, {"prompt": "y" * 500})
    assert len(text) < 220
