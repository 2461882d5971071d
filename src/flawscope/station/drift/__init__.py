"""Whether the world in front of the camera is still the one that the model knows.

`martingale` holds the mathematics and knows nothing of a station; `camera` looks at pictures; `run` and
`drifts` keep both for the products of a station.
"""
