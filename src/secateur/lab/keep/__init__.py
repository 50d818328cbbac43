"""What is kept: the store, its records and tensors, and the questions to it."""
