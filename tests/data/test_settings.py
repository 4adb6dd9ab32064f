"""Where the settings of two runs differ, in words."""

from data.settings.differences import list_differences, list_versions

SETTINGS = {"model": "m", "sampling": {"temperature": 0.2, "seed": 0}, "limit": None}


def test_the_difference_names_what_and_how() -> None:
    asked = {"model": "m", "sampling": {"temperature": 0.0, "seed": 0}, "dtype": "float32"}
    assert list_differences(SETTINGS, asked) == [
        "dtype: not set -> float32",
        "limit: None -> not set",
        "sampling.temperature: 0.2 -> 0.0",
    ]
    assert list_differences(SETTINGS, SETTINGS) == []


def test_long_values_are_cut() -> None:
    (text,) = list_differences({"prompt": "x" * 500}, {"prompt": "y" * 500})
    assert len(text) < 220


def test_packages_that_are_not_installed_have_no_version() -> None:
    assert list(list_versions(["pillow", "no-such-package"])) == ["pillow"]
