"""How true and how complete dense texts are, over a whole captioned folder of scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from data.errors import UserError
from data.scenes.dense import Audit, audit
from data.scenes.folder import Truth


def audit_captions(captions: Mapping[str, str], truths: Iterable[Truth]) -> Audit:
    """Check `captions` (file_name -> dense text) against the ground truth; sums over the images.

    UserError if an image of `truths` has no caption: a share over fewer images would flatter.
    """
    total = Audit(0, 0, 0, 0, 0, 0)
    for truth in truths:
        if truth.file_name not in captions:
            raise UserError(f"{truth.file_name} has no dense text: caption the whole folder first")
        total += audit(captions[truth.file_name], truth.scene)
    return total
