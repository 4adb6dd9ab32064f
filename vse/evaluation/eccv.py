"""ECCV Caption (Chun et al., ECCV 2022): COCO's test split with the right answers it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from vse.evaluation.answers import Ids, count_answers, find_answers
from vse.evaluation.ground_truth import GroundTruth
from vse.evaluation.positives import average_precision_at_r, r_precision, recall_at


def measure_eccv(
    images: np.ndarray, texts: np.ndarray, ids: Ids, truth: GroundTruth
) -> dict[str, Any] | None:
    """mAP@R, R-Precision and R@1 both ways in percent, and counts; None if no query is here.

    images (N, D) and texts (M, D) are of length 1; all of them are ranked, whatever the query.
    """
    ways = find_answers(images, texts, ids, truth)
    if ways is None:
        return None
    found: dict[str, Any] = {}
    for name, way in ways.items():
        precisions = [average_precision_at_r(places) for places in way.places]
        found[f"{name}_map_at_r"] = 100.0 * float(np.mean(precisions))
        found[f"{name}_r_precision"] = 100.0 * float(np.mean([*map(r_precision, way.places)]))
        found[f"{name}_r1"] = recall_at(way.places, 1)
    return found | count_answers(ways)
