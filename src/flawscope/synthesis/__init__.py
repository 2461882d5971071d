"""Simulated defects: a good picture in, the same picture with a small flaw and its exact mask out.

For the methods that need defects and have none: PRN trains on them, and the right input size can be
chosen with them. Pictures are `[H, W, 3]` uint8, RGB, in one intensity scale throughout; every function
takes its `numpy.random.Generator` and touches no global state.
"""

from flawscope.pictures.foreground import Foreground, foreground_mask
from flawscope.synthesis.masks import SCALE_AREAS, DefectScale
from flawscope.synthesis.simulate import KINDS, PAPER_KINDS, SimulatedDefect, extend_defect, simulate_defect
from flawscope.synthesis.textures import TextureFolder, fractal_noise, generated_texture

__all__ = [
    "KINDS",
    "PAPER_KINDS",
    "SCALE_AREAS",
    "DefectScale",
    "Foreground",
    "SimulatedDefect",
    "TextureFolder",
    "extend_defect",
    "foreground_mask",
    "fractal_noise",
    "generated_texture",
    "simulate_defect",
]
