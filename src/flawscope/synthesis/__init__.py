"""Simulated defects: a good picture in, the same picture with a small flaw and its exact mask out.

For the methods that need defects and have none: PRN trains on them, and the right input size can be
chosen with them. Pictures are `[H, W, 3]` uint8, RGB, in one intensity scale throughout; every function
takes its `numpy.random.Generator` and touches no global state.
"""

from flawscope.synthesis.anomalies import (
    ANOMALIES,
    OPACITY,
    VISIBLE,
    Anomaly,
    extend_defect,
    simulate_anomaly,
)
from flawscope.synthesis.appearance import changed_appearance, to_eight_bits
from flawscope.synthesis.effects import (
    cut_paste,
    fill_from_surroundings,
    local_blur,
    local_light,
    local_shift,
    paste_texture,
    scratch,
    shuffle_patches,
)
from flawscope.synthesis.folders import TextureFolder, read_seen
from flawscope.synthesis.foreground import foreground_mask
from flawscope.synthesis.masks import (
    SCALE_AREAS,
    DefectScale,
    blob_mask,
    crack_mask,
    perlin_mask,
    scratch_mask,
)
from flawscope.synthesis.noise import fractal_noise, generated_texture, perlin_noise
from flawscope.synthesis.simulate import KINDS, VISIBLE_LEVEL, VISIBLE_MEAN, Simulated, simulate_defect

__all__ = [
    "ANOMALIES",
    "KINDS",
    "OPACITY",
    "SCALE_AREAS",
    "VISIBLE",
    "VISIBLE_LEVEL",
    "VISIBLE_MEAN",
    "Anomaly",
    "DefectScale",
    "Simulated",
    "TextureFolder",
    "blob_mask",
    "changed_appearance",
    "crack_mask",
    "cut_paste",
    "extend_defect",
    "fill_from_surroundings",
    "foreground_mask",
    "fractal_noise",
    "generated_texture",
    "local_blur",
    "local_light",
    "local_shift",
    "paste_texture",
    "perlin_mask",
    "perlin_noise",
    "read_seen",
    "scratch",
    "scratch_mask",
    "shuffle_patches",
    "simulate_anomaly",
    "simulate_defect",
    "to_eight_bits",
]
