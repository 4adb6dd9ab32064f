"""Whatever can be measured: our own models and those of open_clip, as one kind of thing."""
