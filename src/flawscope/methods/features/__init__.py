"""Frozen backbones, and where their weights come from. Importing this package imports no torch."""
