"""Streams of random numbers, one for each purpose: streams of the same seed are independent."""

from enum import IntEnum, unique

import numpy as np


@unique
class Stream(IntEnum):
    """Numbers that a stream's generator is made from, together with the seed. Models depend on them."""

    EFFICIENTAD_WEIGHTS = 10
    EFFICIENTAD_ORDER = 11
    EFFICIENTAD_STEP = 12
    EFFICIENTAD_DROPOUT = 13
    HOLD_OUT = 20
    PRNET_WEIGHTS = 30
    PRNET_ORDER = 31
    PRNET_BASE = 32
    PRNET_DRAW = 33
    PRNET_NOISE = 34
    SEEN_DEFECTS = 40
    SIMULATED_DEFECTS = 50
    LIGHTS = 51
    WINDOWS = 60
    CARRIERS = 61
    TRIALS = 67

    def rng(self, seed: int, *numbers: int) -> np.random.Generator:
        """Return the generator for a seed; `numbers` select one of several generators of the stream."""
        return np.random.default_rng([seed, self, *numbers])
