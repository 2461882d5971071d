"""Predictions, and their pictures on disk. Torch-free."""
