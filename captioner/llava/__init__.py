"""The captioning model: name, weights, prompt, preprocessing and sampling."""
