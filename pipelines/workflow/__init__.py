"""Running sequences of d2s commands, for the demo and the experiments."""
