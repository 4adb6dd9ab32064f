"""What is run beside the product: the set-up, its locks, the figures of the README, checks of a release."""
