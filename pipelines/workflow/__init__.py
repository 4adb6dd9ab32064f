"""The whole way as a row of d2s commands: what the demo and the experiments share."""
