"""The names in a run's folder; apart, so that they can be read without torch."""

CONFIG, MODEL, LOG, TOKENIZER = "config.json", "model.safetensors", "log.jsonl", "tokenizer"
LEFT_OUT = "left_out.jsonl"
PROGRESS = "state/progress.json"
# Of a model given to others.
PREPROCESSING = "preprocessing.json"
