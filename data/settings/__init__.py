"""Settings of runs: built from plain values, read from YAML, and compared."""
