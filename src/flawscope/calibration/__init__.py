"""Turns scores of good pictures into p-values, thresholds and promises. Torch-free."""
