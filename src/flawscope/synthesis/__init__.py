"""Simulated defects: a good picture in, the same picture with a small flaw and its exact mask out.

They serve methods that need defects where there are none: PRN trains on them, and a fit chooses sizes by
them. Pictures are `[H, W, 3]` uint8, RGB, all on the same intensity scale. Every function takes its
`numpy.random.Generator`, and changes no global state.
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
