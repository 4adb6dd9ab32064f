"""The captioning model: its name, weights, prompt, pixels and sampling."""
