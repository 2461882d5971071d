"""Models that undistort their pictures, as files of format 5 may hold them: no fit makes one any more."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import flawscope
from flawscope.views.undistort import Undistortion


def fit_with_lens(good: Sequence[NDArray[np.uint8]], lens: Undistortion, **how: Any) -> flawscope.Predictor:
    """Model that learnt from undistorted pictures, and undistorts those that it judges."""
    fitted = flawscope.fit([np.asarray(lens(picture, 255.0)) for picture in good], **how)
    preprocess = replace(fitted.manifest.preprocess, undistort=lens)
    manifest = replace(fitted.manifest, preprocess=preprocess)
    return flawscope.Predictor(replace(fitted.artefact, manifest=manifest), fitted.session)
