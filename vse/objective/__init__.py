"""The losses of both stages: image-text alignment, and distillation from dense to sparse."""
