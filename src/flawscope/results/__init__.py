"""Stores predictions and their pictures on disk. Torch-free."""
