"""Region of interest of a model, in the form that a fit takes."""

from __future__ import annotations

import numpy as np

from flawscope.artefact.model_file import Artefact
from flawscope.views.roi import FrameRegion, RoiSource


def stored_region(model: Artefact) -> RoiSource | None:
    """Read the region of interest of a model.

    Returns:
        A mask of the frame, scaled to the preprocessing's `size`: of a frame that is aligned or corrected as
        `FrameRegion`, else as an array. None: all of the frame counts.
    """
    region = model.counted
    if region is None or region.all():
        return None
    preprocess = model.manifest.preprocess.whole
    height, width = preprocess.network_size
    # the network's view is cut out of the middle of the frame; + 1 rounds as that crop does
    frame_height, frame_width = preprocess.size
    top = (frame_height - height + 1) // 2
    left = (frame_width - width + 1) // 2
    mask = np.zeros(preprocess.size, dtype=np.bool_)
    mask[top : top + height, left : left + width] = region
    # a frame that is neither aligned nor corrected is the scaled picture itself
    if preprocess.reference is None and not preprocess.corrections:
        return mask
    return FrameRegion(mask, preprocess.reference)
