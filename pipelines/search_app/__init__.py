"""The search page: queries and results, HTML, the Gradio page and its server."""
