"""Puts together of the rooms below it what every station has; features stand on it (`extension`)."""
