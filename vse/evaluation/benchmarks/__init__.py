"""Public benchmarks: declared in YAML files, opened with hash checks, and measured."""
