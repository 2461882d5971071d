"""What a prediction is, and its pictures on disk. Torch-free."""
