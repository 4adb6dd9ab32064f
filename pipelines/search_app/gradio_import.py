"""Importing Gradio without network requests and with a private upload folder."""

from __future__ import annotations

import os
import tempfile

from data.environment import name_install
from data.errors import UserError

# Read when Gradio is imported. Its default upload folder is shared with other pages on this
# machine, and would outlive the server.
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
