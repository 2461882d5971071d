"""From scores to p-values, thresholds and decisions. Torch-free."""
