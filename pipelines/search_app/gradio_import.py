"""Gradio, imported so that it calls nobody and keeps what it is sent in a folder of its own."""

from __future__ import annotations

import os
import tempfile

from data.environment import name_install
from data.errors import UserError

# Read when Gradio is imported. Uploads in its usual folder would be shared with every other page
# of this machine, and outlive us.
UPLOADS = tempfile.TemporaryDirectory(prefix="d2s-serve-")
os.environ["GRADIO_TEMP_DIR"] = UPLOADS.name
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

try:
    import gradio as gr
except ImportError as error:
    raise UserError(
        f"the page needs the package gradio, which is missing: {name_install('serve')}"
    ) from error

__all__ = ["UPLOADS", "gr"]
