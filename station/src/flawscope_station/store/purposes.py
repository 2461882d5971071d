"""Why a part was inspected: a client of the station reads it, too, without a data base."""

PRODUCTION = "production"  # the line made it
CHALLENGE = "challenge"  # it is known, and shown to see whether the station still tells it
TRIAL = "trial"  # somebody tries a picture by hand: it counts nowhere
