"""Weights of the transformer of the preset `accurate`, as a file beside this module."""
