"""Numbers of the code released with the paper, and the comparison with them (README.md)."""
