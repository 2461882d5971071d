"""Exports a fitted model for other engines."""
