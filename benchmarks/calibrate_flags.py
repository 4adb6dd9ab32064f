"""Quality flags on real texts, and their detection of artificial faults.

    python benchmarks/calibrate_flags.py TEXTS.jsonl       # JSON lines with "text"
    python benchmarks/calibrate_flags.py CAPTIONS.txt      # or one text per line
    python benchmarks/calibrate_flags.py dense/coco        # or a captioning run

Prints the count and share of each flag with three examples, then the detection rate of each fault.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from faults import list_faults

from captioner.text.quality import FLAGS, assess, find_duplicates, trim_to_sentence
from data.dense.shards import read_rows
from data.sparse.sentences import split_sentences

HERE = Path(__file__).resolve().parent
HEAD_LETTERS = 90


def main() -> None:
    """Read the texts and print all reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "texts", type=Path, help="JSON lines, lines of text (.txt), or a run's folder"
    )
    parser.add_argument("--key", default="text", help="the key of a text (default: text)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts, finishes, images = read_texts(options.texts, key=options.key)
    flags = report_flags(texts, finishes, images)
    good = [text for text, found in zip(texts, flags, strict=True) if not found]
    report_languages(HERE / "languages.jsonl")
    report_faults(good, seed=options.seed)
    report_trims(good, seed=options.seed)
    report_duplicates(good)
    report_speed(texts)


Column = list[str | None]


def read_texts(path: Path, *, key: str) -> tuple[list[str], Column, Column]:
    """Texts, finish reasons and image hashes; the latter two are unknown for JSON lines."""
    if path.is_dir():
        table = read_rows(path, ["caption", "finish_reason", "image_sha256"])
        rows = [row for row in table.to_pylist() if row["caption"] is not None]
        finishes, images = ([row[name] for row in rows] for name in table.column_names[1:])
        return [row["caption"] for row in rows], finishes, images
    lines = path.read_text("utf-8").splitlines()
    texts = [line if path.suffix == ".txt" else json.loads(line)[key] for line in lines if line]
    return texts, [None] * len(texts), [None] * len(texts)


def report_flags(texts: list[str], finishes: Column, images: Column) -> list[list[str]]:
    """Print the flagged texts; returns the flags of each text."""
    found = [assess(text, finish) for text, finish in zip(texts, finishes, strict=True)]
    same = find_duplicates(texts, images)
    flags = [
        one.flags + ["duplicate"] * bool(twice) for one, twice in zip(found, same, strict=True)
    ]
    words = sorted(one.words for one in found)
    repetition = sorted(one.repetition for one in found)
    print(
        f"{len(texts):,} texts of {words[0]} to {words[-1]} words, median {words[len(words) // 2]}"
    )
    print(f"repetition: median {repetition[len(texts) // 2]:.3f}, highest {repetition[-1]:.3f}")
    by_flag: dict[str, list[str]] = defaultdict(list)
    for text, raised in zip(texts, flags, strict=True):
        for flag in raised or ["(none)"]:
            by_flag[flag].append(text)
    for flag in (*FLAGS, "(none)"):
        print(f"{flag:<14}{len(by_flag[flag]):>7,}{len(by_flag[flag]) / len(texts):>8.2%}")
        for text in by_flag[flag][:3]:
            print(f"    {text[:HEAD_LETTERS]!r}")
    return flags


def report_languages(path: Path) -> None:
    """Print which of the hand-written texts are judged wrongly, by language."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    wrong = [
        row
        for row in rows
        if ("non_english" in assess(row["text"], "stop").flags) != (row["language"] != "en")
    ]
    languages = sorted({row["language"] for row in rows})
    print(f"\n{len(rows)} hand-written texts in {', '.join(languages)}: {len(wrong)} misjudged")
    for row in wrong:
        print(f"    {row['language']}: {row['text'][:HEAD_LETTERS]!r}")


def report_faults(texts: Sequence[str], *, seed: int) -> None:
    """Print how many texts without flags are flagged after a fault is inserted."""
    rows = [json.loads(line) for line in (HERE / "languages.jsonl").read_text("utf-8").splitlines()]
    foreign = [row["text"] for row in rows if row["language"] not in ("en", "mixed")]
    print(f"\nfaults inserted into the {len(texts):,} texts without a flag: share that is flagged")
    for fault in list_faults(foreign):
        rng = random.Random(seed)
        made = [faulty for text in texts if (faulty := fault.make(text, rng)) is not None]
        found = sum(fault.flag in assess(faulty, "stop").flags for faulty in made)
        print(f"{fault.flag:<14}{fault.name:<44}{found / max(1, len(made)):>7.1%}")


def report_trims(texts: Sequence[str], *, seed: int) -> None:
    """Print how often a text cut at a random letter is trimmed to its own whole sentences."""
    rng = random.Random(seed)
    right = none = 0
    for text in texts:
        cut = rng.randrange(1, len(text))
        whole = [
            " ".join(split_sentences(text)[:number])
            for number in range(1, len(split_sentences(text)) + 1)
        ]
        expected = max((one for one in whole if len(one) <= cut), key=len, default=None)
        trimmed = trim_to_sentence(text[:cut])
        right += trimmed == expected
        none += expected is None
    print(
        f"\ncut at a random letter and trimmed: {right / len(texts):.1%} end where the last whole "
        f"sentence ends ({none / len(texts):.1%} have none)"
    )


def report_duplicates(texts: Sequence[str]) -> None:
    """Print what is flagged if 1, 2, 3 and 5 images have the same text."""
    for times in (1, 2, 3, 5):
        flagged = find_duplicates([*texts[times:], *[texts[0]] * times], [None] * len(texts))
        print(f"one text at {times} images: {int(flagged.sum())} rows flagged as duplicate")


def report_speed(texts: Sequence[str]) -> None:
    """Print texts per second on one core, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for text in texts:
            assess(text, "stop")
        seconds.append(time.perf_counter() - start)
    print(f"\nspeed: {len(texts) / min(seconds):,.0f} texts a second on one core")


if __name__ == "__main__":
    main()
