"""What a training run will need, told before it starts: memory, arithmetic, disk, missing files."""
