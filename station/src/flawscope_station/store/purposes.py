"""Purposes of inspections. The module imports nothing: a client without a database needs it, too."""

PRODUCTION = "production"  # a part of the line
CHALLENGE = "challenge"  # a part with a known answer, shown to see whether the station judges rightly
TRIAL = "trial"  # a picture that somebody tries by hand; it counts in no figure
