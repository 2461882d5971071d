"""Methods that learn in steps, and their common parts: fit, trainer, checkpoints and log.

Fitting, predicting and exporting know them only by their names in `methods.registry`.
"""
