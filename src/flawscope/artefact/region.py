"""Region of interest of a model, in the form that a fit takes."""

from __future__ import annotations

import numpy as np

from flawscope.artefact.model_file import Artefact
from flawscope.views.roi import FrameRegion, RoiSource


def stored_region(model: Artefact) -> RoiSource | None:
    """Read the region of interest of a model.

    Returns:
        A mask of a frame of the preprocessing's `size`, which is seen pixel by pixel; None: all of the frame
        counts.
    """
    region = model.counted
    if region is None or region.all():
        return None
    how = model.manifest.preprocess.whole
    rows, columns = (
        slice((whole - seen + 1) // 2, (whole - seen + 1) // 2 + seen)  # as a crop takes the nearest pixels
        for whole, seen in zip(how.size, how.network_size, strict=True)
    )
    mask = np.zeros(how.size, dtype=np.bool_)
    mask[rows, columns] = region
    return mask if how.reference is None and not how.corrections else FrameRegion(mask, how.reference)
