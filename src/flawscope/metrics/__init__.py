"""AUROC, AP, F1, AU-PRO and sPRO: pure functions on NumPy arrays, exact, in the scores' own unit.

Higher scores are more anomalous. Nothing is binned, rescaled or squashed; a metric that is undefined is NaN.
"""

from flawscope.metrics._ranking import ImageMetrics
from flawscope.metrics.image import (
    auroc,
    average_precision,
    confidence_interval_rate,
    f1_at,
    f1_max,
    image_metrics,
)
from flawscope.metrics.pixel import (
    PixelMetrics,
    au_pro,
    au_spro,
    pixel_metrics,
    saturation_pixels,
)

__all__ = [
    "ImageMetrics",
    "PixelMetrics",
    "au_pro",
    "au_spro",
    "auroc",
    "average_precision",
    "confidence_interval_rate",
    "f1_at",
    "f1_max",
    "image_metrics",
    "pixel_metrics",
    "saturation_pixels",
]
