"""What is run beside the product: the set-up, its locks, and checks of a release."""
