"""The two towers as ONNX files that need neither torch nor this project."""
