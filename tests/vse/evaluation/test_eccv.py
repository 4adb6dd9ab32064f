"""Our measures against the package eccv_caption, on scores that are drawn at random."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from vse.evaluation.folds import cut_folds, measure_folds
from vse.evaluation.ground_truth import ORIGINAL, find_package, is_coco, read_ground_truth
from vse.evaluation.positives import Ids, measure_cxc, measure_eccv
from vse.evaluation.retrieval import rank, recalls

PACKAGE = find_package()
needs_package = pytest.mark.skipif(PACKAGE is None, reason="needs the extra [eccv]")


def load(name: str) -> dict[str, list[int]]:
    assert PACKAGE is not None
    found: dict[str, list[int]] = json.loads((PACKAGE / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every so many queries of the real ground truth: the package's Python takes long over all."""
    folder = tmp_path_factory.mktemp("truth")
    for name, step in (("eccv", 8), ("cxc", 40)):
        for way in ("image_to_caption", "caption_to_image"):
            queries = dict(list(load(f"{name}_{way}").items())[::step])
            if (name, way) == ("eccv", "image_to_caption"):
                # Each has a right caption that is not among the split's 25,000.
                queries |= {key: load("eccv_image_to_caption")[key] for key in ("575916", "421999")}
            (folder / f"{name}_{way}.json").write_text(json.dumps(queries))
    (folder / ORIGINAL).write_text(json.dumps(load("original_caption_to_image")))
    return folder


@pytest.fixture(scope="module")
def coco() -> tuple[np.ndarray, np.ndarray, Ids]:
    """Embeddings of whole numbers, so that no rounding decides, for COCO's real ids.

    Texts lie near their image, so that a good part of the answers is found early.
    """
    original = load("original_image_to_caption")
    rng = np.random.default_rng(0)
    images = rng.integers(-500, 501, (len(original), 6))
    texts = np.repeat(images, 5, axis=0) + rng.integers(-250, 251, (5 * len(original), 6))
    ids = Ids(list(original), [str(text) for mine in original.values() for text in mine])
    return images.astype(np.float32), texts.astype(np.float32), ids


def sort_all(
    scores: np.ndarray, queries: list[int], items: list[int], right: dict[int, list[int]]
) -> dict[int, list[int]]:
    """Rankings as the package wants them; equal scores with the wrong answers first."""
    ranked = {}
    for query, row in zip(queries, scores, strict=True):
        order = np.lexsort([np.isin(items, right[query]), -row])
        ranked[query] = [items[place] for place in order[:100]]
    return ranked


@needs_package
@pytest.mark.filterwarnings("ignore:failed to import")
def test_equals_the_package_on_the_real_ground_truth(
    thinned: Path, coco: tuple[np.ndarray, np.ndarray, Ids]
) -> None:
    from eccv_caption import Metrics

    images, texts, ids = coco
    oracle, ours = Metrics(), read_ground_truth(thinned)
    paths = [
        [thinned / f"{name}_{way}.json" for way in ("image_to_caption", "caption_to_image")]
        for name in ("eccv", "cxc")
    ]
    oracle.set_eccv_gts(*paths[0])
    oracle.set_cxc_gts(*paths[1])
    image_ids, text_ids = list(map(int, ids.images)), list(map(int, ids.texts))
    rows = {name: row for row, name in enumerate(image_ids)}
    columns = {name: column for column, name in enumerate(text_ids)}

    def ranked(truth: dict[str, dict[int, list[int]]]) -> dict[str, dict[int, list[int]]]:
        seen, said = list(truth["i2t"]), list(truth["t2i"])
        by_image = images[[rows[name] for name in seen]] @ texts.T
        by_text = texts[[columns[name] for name in said]] @ images.T
        return {
            "i2t": sort_all(by_image, seen, text_ids, truth["i2t"]),
            "t2i": sort_all(by_text, said, image_ids, truth["t2i"]),
        }

    found = measure_eccv(images, texts, ids, ours["eccv"])
    assert found is not None and found["complete"]
    expected = oracle.eccv_metrics(ranked(oracle.eccv_gts), "all")
    for way in ("i2t", "t2i"):
        assert found[f"{way}_map_at_r"] == pytest.approx(100 * expected["eccv_map_at_r"][way])
        assert found[f"{way}_r_precision"] == pytest.approx(100 * expected["eccv_rprecision"][way])
        assert found[f"{way}_r1"] == pytest.approx(100 * expected["eccv_r1"][way])
        assert 0.01 < found[f"{way}_map_at_r"] < 90

    found = measure_cxc(images, texts, ids, ours["cxc"])
    assert found is not None and found["complete"]
    rankings = ranked(oracle.cxc_gts)
    for cut in (1, 5, 10):
        recall = oracle.cxc_recalls(rankings, "all", K=cut)
        for way in ("i2t", "t2i"):
            assert found[f"{way}_r{cut}"] == pytest.approx(100 * recall[way])


@needs_package
@pytest.mark.filterwarnings("ignore:failed to import")
def test_folds_equal_the_package() -> None:
    from eccv_caption._metrics import compute_coco1k_r_at_k, compute_r_at_k

    rng = np.random.default_rng(1)
    images = rng.integers(-50, 51, (40, 3)).astype(np.float32)
    texts = np.repeat(images, 5, axis=0) + rng.integers(-50, 51, (200, 3)).astype(np.float32)
    image_of = np.repeat(np.arange(40), 5)
    own_texts = {n: list(range(5 * n, 5 * n + 5)) for n in range(40)}
    own_image = {m: [m // 5] for m in range(200)}
    i2t = {n: _sort(row, own_texts[n]) for n, row in enumerate(images @ texts.T)}
    t2i = {m: _sort(row, own_image[m]) for m, row in enumerate(texts @ images.T)}
    whole = recalls(rank(images, texts, image_of))
    folds = measure_folds(images, texts, image_of, count=4)
    assert folds["images"] == [10] * 4 and folds["captions"] == [50] * 4
    for cut in (1, 5, 10):
        assert whole[f"i2t_r{cut}"] == pytest.approx(100 * compute_r_at_k(i2t, own_texts, cut))
        assert whole[f"t2i_r{cut}"] == pytest.approx(100 * compute_r_at_k(t2i, own_image, cut))
        for number, fold in enumerate(folds["each"]):
            seen, said = range(10 * number, 10 * number + 10), range(50 * number, 50 * number + 50)
            expected = compute_coco1k_r_at_k(i2t, {n: own_texts[n] for n in seen}, set(said), cut)
            assert fold[f"i2t_r{cut}"] == pytest.approx(100 * expected)
            expected = compute_coco1k_r_at_k(t2i, {m: own_image[m] for m in said}, set(seen), cut)
            assert fold[f"t2i_r{cut}"] == pytest.approx(100 * expected)


def _sort(row: np.ndarray, right: list[int]) -> list[int]:
    return sorted(range(len(row)), key=lambda item: (-row[item], item in right))


def test_mean_and_deviation_of_folds_by_hand() -> None:
    """Two folds of two images with a text each: both right in the first, one in the second."""
    images = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32)
    texts = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    folds = measure_folds(images, texts, np.arange(4), count=2)
    assert [fold["t2i_r1"] for fold in folds["each"]] == [100.0, 50.0]
    assert folds["mean"]["t2i_r1"] == 75.0
    assert folds["deviation"]["t2i_r1"] == pytest.approx(50 / 2**0.5)
    # Image 2 ties with text 3, which is not its own; image 3 finds neither.
    assert [fold["i2t_r1"] for fold in folds["each"]] == [100.0, 0.0]


def test_sizes_of_folds() -> None:
    assert [(f.start, f.stop) for f in cut_folds(5000, 5)][1] == (1000, 2000)
    assert [f.stop - f.start for f in cut_folds(8, 3)] == [2, 3, 3]
    with pytest.raises(ValueError, match="3 images cannot be split into 4 folds"):
        cut_folds(3, 4)


def write_truth(folder: Path, name: str, texts: object, images: object) -> None:
    (folder / f"{name}_image_to_caption.json").write_text(json.dumps(texts))
    (folder / f"{name}_caption_to_image.json").write_text(json.dumps(images))


def test_what_is_missing_is_counted_and_not_measured(tmp_path: Path) -> None:
    write_truth(tmp_path, "eccv", {"1": [10, 20, 99], "2": [20], "9": [10]}, {"10": [1, 9]})
    images = np.eye(2, dtype=np.float32)
    found = measure_eccv(
        images, images, Ids(["1", "2"], ["10", "20"]), read_ground_truth(tmp_path)["eccv"]
    )
    assert found is not None and found["complete"] is False
    assert (found["i2t_queries"], found["i2t_queries_missing"]) == (2, 1)
    assert (found["i2t_answers"], found["i2t_answers_missing"]) == (3, 2)
    assert (found["t2i_queries"], found["t2i_answers"], found["t2i_answers_missing"]) == (1, 1, 1)
    # Image 1 finds two of its three, image 2 its one; caption 10 finds one of two.
    assert found["i2t_r_precision"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found["i2t_map_at_r"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found["t2i_r_precision"] == 50.0 and found["t2i_r1"] == 100.0
    assert measure_cxc(images, images, Ids(["a", "b"], ["c", "d"]), *_only(tmp_path)) is None


def _only(folder: Path) -> list:
    return list(read_ground_truth(folder).values())


def test_files_that_are_no_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no ground truth \(looked for eccv_image_to_caption"):
        read_ground_truth(tmp_path)
    path = tmp_path / "cxc_image_to_caption.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="cxc_caption_to_image.json is missing"):
        read_ground_truth(tmp_path)
    for text, message in (("{", "cannot be read as JSON"), ('{"1": 2}', "is not ground truth")):
        path.write_text(text)
        (tmp_path / "cxc_caption_to_image.json").write_text("{}")
        with pytest.raises(UserError, match=message):
            read_ground_truth(tmp_path)


@needs_package
def test_other_ids_are_not_taken_for_cocos() -> None:
    assert PACKAGE is not None
    original = load("original_caption_to_image")
    some = {text: str(image) for text, (image,) in list(original.items())[:50]}
    assert is_coco(PACKAGE, some)
    # Numbers of another data set that exist in COCO too.
    assert not is_coco(PACKAGE, dict.fromkeys(some, "1"))
    assert not is_coco(PACKAGE, {}) and not is_coco(Path("nowhere"), some)
