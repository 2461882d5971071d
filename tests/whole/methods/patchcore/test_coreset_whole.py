"""The fast exact selection against the textbook loop, written out here with differences in float64."""

import os
import subprocess
import sys


def test_bytes_are_left_alone_where_they_would_be_cut_off():
    ask = "from flawscope.methods.patchcore.quantized_search import *; print(is_faster(), sums_are_exact())"
    for level in ("SSE41", "AVX2", "AVX512_CORE"):
        told = {**os.environ, "ONEDNN_MAX_CPU_ISA": level}
        said = subprocess.check_output([sys.executable, "-c", ask], env=told, text=True).split()
        assert said != ["True", "False"], level
