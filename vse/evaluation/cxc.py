"""CxC, Crisscrossed Captions (Parekh et al., EACL 2021): COCO's test split, judged again."""

from __future__ import annotations

from typing import Any

import numpy as np

from vse.evaluation.answers import Ids, count_answers, find_answers
from vse.evaluation.ground_truth import GroundTruth
from vse.evaluation.positives import recall_at
from vse.evaluation.retrieval import CUTS


def measure_cxc(
    images: np.ndarray, texts: np.ndarray, ids: Ids, truth: GroundTruth
) -> dict[str, Any] | None:
    """R@1, R@5, R@10 both ways in percent, their sum, and counts; None if no query is here.

    images (N, D) and texts (M, D) are of length 1; all of them are ranked, whatever the query.
    """
    ways = find_answers(images, texts, ids, truth)
    if ways is None:
        return None
    found: dict[str, Any] = {
        f"{name}_r{cut}": recall_at(way.places, cut) for name, way in ways.items() for cut in CUTS
    }
    return found | {"rsum": sum(found.values())} | count_answers(ways)
