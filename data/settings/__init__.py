"""Settings of runs: made of plain values, read from YAML, compared."""
