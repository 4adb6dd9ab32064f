"""Public benchmarks: each declared in a YAML file, opened with its hashes checked, and measured."""
