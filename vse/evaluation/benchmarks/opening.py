"""Opening a benchmark's files from a folder or the Hub, and checking them.

A hash that could not be verified is null in the declaration. It is recorded at the first
measurement; from then on, other files are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from data.environment import name_install
from data.errors import UsageError, UserError, one_line
from data.files.atomic import write_json
from data.files.hashes import hash_file
from data.files.locks import hold_lock
from data.files.text_files import read_json
from data.images import ImageError
from data.sources.cells import Archives
from vse.evaluation.benchmarks.declaration import SHAPES, Benchmark, Hub
from vse.evaluation.benchmarks.rows import Example, list_files, read_examples
from vse.evaluation.ground_truth import GroundTruth, find_package, read_ground_truth

RECORD = "benchmark-files.json"
_TRUTHS = ("eccv", "cxc")


@dataclass(frozen=True)
class Opened:
    """A benchmark with its files: `examples` are below `folder`; `files` are SHA-256 by name.

    `order_sha256` is the hash of the image names in order, `revision` the commit on the Hub, if
    any. `limit` is how many examples are measured, None for all.
    """

    benchmark: Benchmark
    folder: Path
    examples: list[Example]
    files: Mapping[str, str]
    order_sha256: str
    revision: str | None = None
    truth: GroundTruth | None = None
    limit: int | None = None

    def record(self, path: Path) -> None:
        """Remember the hashes for later runs, next to those of other benchmarks.

        See `check_record`.
        """
        with hold_lock(path.parent, f".{path.name}.lock"):
            known = _read_record(path)
            mine = {**known.get(self.benchmark.name, {}), **_describe(self)}
            if known.get(self.benchmark.name) != mine:
                write_json(path, {**known, self.benchmark.name: mine})


@contextlib.contextmanager
def open_benchmark(
    benchmark: Benchmark,
    *,
    data: Path | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[Opened]:
    """Find the files, read the examples and check both; unpacked files are removed afterwards.

    Args:
        data: a folder with the set, or with a folder of the set's name; None = from the Hub.
        revision: of the Hub, if the declaration has none.

    Raises:
        UserError: files are missing, or differ from those declared.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, fetched, used = _find(benchmark, data, revision, Path(scratch))
        examples = read_examples(benchmark, folder)
        truth, truths = _open_truth(benchmark, folder)
        files = fetched | _hash_files(benchmark, folder) | truths
        names = [PurePosixPath(place).name for example in examples for place in example.images]
        text = "".join(f"{name}\n" for name in dict.fromkeys(names))
        order = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        _check(benchmark, folder, examples, files, order)
        taken = _take(examples, limit)
        whole = len(taken) == len(examples)
        yield Opened(benchmark, folder, taken, files, order, used, truth, None if whole else limit)


def check_record(opened: Opened, path: Path) -> None:
    """UserError if other files of this name were measured before.

    Args:
        path: the file that `Opened.record` writes.
    """
    known = _read_record(path).get(opened.benchmark.name, {})
    for key, value in _describe(opened).items():
        if known.get(key, value) != value:
            raise UserError(
                f"{key} of {opened.benchmark.name} differs from the previous measurement "
                f"({str(known[key])[:12]}, now {str(value)[:12]}): the results would not be "
                f"comparable; use the same files as before, or remove its entry from {path}"
            )


def _describe(opened: Opened) -> dict[str, str]:
    of_hub = {} if opened.revision is None else {"revision": opened.revision}
    return {**opened.files, "the order of the images": opened.order_sha256, **of_hub}


def _read_record(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise UserError(f"{path} is not a record of benchmarks: move it elsewhere")
    return found


def _find(
    benchmark: Benchmark, data: Path | None, revision: str | None, scratch: Path
) -> tuple[Path, dict[str, str], str | None]:
    """The folder, the hashes of downloaded files, and the revision."""
    name, hub = benchmark.name, benchmark.hub
    if data is not None:
        if revision is not None:
            raise UsageError("--revision is for the Hub and --data for local files: use only one")
        folder = data / name if (data / name).is_dir() else data
        if not folder.is_dir():
            raise UserError(f"the folder {data} does not exist: specify that of {name} with --data")
        return folder, {}, None
    if hub is None:
        raise UserError(
            f"{name} is measured from a folder: get {' and '.join(benchmark.get)}, and specify the "
            "folder with --data"
        )
    if None not in (hub.revision, revision) and hub.revision != revision:
        raise UserError(f"{name} is measured at the revision {hub.revision}, not {revision}")
    used = hub.revision or revision
    if used is None:
        raise UserError(
            f"the revision of {hub.repo} at which {name} is measured could not be verified here: "
            "specify a commit with --revision; later runs must use the same"
        )
    return scratch, _fetch(hub, used, scratch), used


def _fetch(hub: Hub, revision: str, scratch: Path) -> dict[str, str]:
    # Not at the top: measuring a folder does not need it.
    import httpx2
    from huggingface_hub import errors, hf_hub_download

    hashes = {}
    # Archives last: their members must not replace or write through the links to other files.
    for file in sorted(hub.files, key=_is_archive):
        try:
            path = Path(hf_hub_download(hub.repo, file, repo_type="dataset", revision=revision))
        except errors.GatedRepoError as error:
            raise UserError(
                f"{hub.repo} is gated: request access on its page, then set HF_TOKEN"
            ) from error
        except (
            errors.HfHubHTTPError,
            errors.HFValidationError,
            httpx2.HTTPError,
            OSError,
        ) as error:
            raise UserError(
                f"{file} of {hub.repo} at {revision} is not available: {one_line(error)}"
            ) from error
        hashes[file] = hash_file(path)
        target = scratch / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_archive(file):
            _unpack(path, target.parent)
        else:
            target.symlink_to(path)
    return hashes


def _is_archive(file: str) -> bool:
    return file.endswith(".zip")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack member by member, with limited sizes, inside the folder and over no other file."""
    reader = Archives()
    try:
        with ZipFile(archive) as opened:
            names = [info.filename for info in opened.infolist() if not info.is_dir()]
        for name in names:
            target = folder / PurePosixPath(name)
            if ".." in PurePosixPath(name).parts or not target.is_relative_to(folder):
                raise UserError(
                    f"{archive} contains a file that leads out of its folder: {name[:200]}"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(reader.read(str(archive), name))
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{archive} contains a file that exists twice: {name[:200]}") from error
    except (BadZipFile, ImageError) as error:
        raise UserError(f"{archive} cannot be unpacked: {one_line(error)}") from error
    finally:
        reader.close()


def _open_truth(benchmark: Benchmark, folder: Path) -> tuple[GroundTruth | None, dict[str, str]]:
    """The correct answers of ECCV Caption or CxC, next to the captions or from the package."""
    if benchmark.metric not in _TRUTHS:
        return None, {}
    place = folder / "eccv_caption"
    found = place if place.is_dir() else find_package()
    if found is None:
        raise UserError(f"{benchmark.name} needs its ground truth: {name_install('eccv')}")
    ways = ("image_to_caption", "caption_to_image")
    names = [f"{benchmark.metric}_{way}.json" for way in ways]
    truth = read_ground_truth(found)[benchmark.metric]
    return truth, {name: hash_file(found / name) for name in names}


def _hash_files(benchmark: Benchmark, folder: Path) -> dict[str, str]:
    """Hash the files that are read, and archives with a known hash that still exist."""
    known = {name for name in benchmark.sha256 if (folder / name).is_file()}
    single = {benchmark.captions, *(rows.listed for rows in benchmark.rows)} - {None}
    hashes = {str(name): hash_file(folder / str(name)) for name in known | single}
    for rows in benchmark.rows:
        files = list_files(rows, folder)
        if "*" not in rows.file:
            hashes[rows.file] = hash_file(files[0])
            continue
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.name} {hash_file(file)}\n".encode("utf-8", "surrogateescape"))
        hashes[rows.file] = total.hexdigest()
    return hashes


def _check(
    benchmark: Benchmark,
    folder: Path,
    examples: list[Example],
    files: Mapping[str, str],
    order: str,
) -> None:
    name, wanted = benchmark.name, benchmark.sha256
    wrong = next((file for file, mine in files.items() if wanted.get(file, mine) != mine), None)
    if wrong is not None:
        raise UserError(
            f"{wrong} of {name} has the SHA-256 {files[wrong][:12]}..., not "
            f"{wanted[wrong][:12]}...: it is another version, or damaged; download it again"
        )
    texts = sum(len(example.texts) for example in examples)
    expected = benchmark.examples * len(benchmark.languages)
    for what, count, right in (
        ("examples", len(examples), expected),
        ("texts", texts, benchmark.texts),
    ):
        if right not in (None, count):
            raise UserError(
                f"{folder} has {count:,} {what} of {name}, which has {right:,}: it is another "
                "version, or incomplete"
            )
    number = SHAPES.get(benchmark.metric, (1, None))[1]
    if number and any(len(example.texts) != number for example in examples):
        raise UserError(f"{folder} has examples of {name} that do not have {number} texts each")
    if benchmark.order_sha256 not in (None, order):
        raise UserError(
            f"{folder} has the images of {name} in another order than it is measured in, or other "
            "images: use its file as published"
        )
    places = dict.fromkeys(place for example in examples for place in example.images)
    missing = [place for place in places if not (folder / place).is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(places):,} images of {name} are missing in {folder}, the "
            f"first is {missing[0]}"
        )


def _take(examples: list[Example], limit: int | None) -> list[Example]:
    if limit is None:
        return examples
    taken: dict[str, list[Example]] = {}
    for example in examples:
        mine = taken.setdefault(example.group, [])
        if len(mine) < limit:
            mine.append(example)
    return [example for mine in taken.values() for example in mine]
