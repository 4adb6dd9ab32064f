"""What a page says of its origin: the code, and the command without local paths."""

from pathlib import Path

from pipelines.workflow.origin import describe_code, hash_code, quote_command


def test_other_code_has_another_hash(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("a = 1")
    before = hash_code(tmp_path)
    assert hash_code(tmp_path) == before != hash_code()
    source.write_text("a = 2")
    assert hash_code(tmp_path) != before


def test_a_page_tells_several_versions_of_the_code() -> None:
    assert describe_code(None) == describe_code([]) == []
    assert "`abc`" in describe_code(["abc"])[-1] and "different" not in describe_code(["abc"])[-1]
    assert "unknown, `abc`. " in describe_code(["unknown", "abc"])[-1]
    assert "different versions" in describe_code(["unknown", "abc"])[-1]


def test_commands_have_no_local_paths() -> None:
    words = ["d2s", "ablate", "--images", "/home/me/coco", "--docs", "docs/pages", "--dense=/x/y"]
    words += ["--set", "image.backbone=hf:/models/vit", "--seeds", "3", "--table", "a b.yaml"]
    assert quote_command(words) == (
        "d2s ablate --images coco --docs docs/pages --dense=y --set image.backbone=hf:vit "
        "--seeds 3 --table 'a b.yaml'"
    )
