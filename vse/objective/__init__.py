"""The losses of both stages: alignment of images and texts, distillation from dense to sparse."""
