"""A fitted model for another engine."""
