"""From pictures of good parts to a calibrated model."""
