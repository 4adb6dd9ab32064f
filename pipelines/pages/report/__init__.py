"""The demo's HTML report: one self-contained page."""
