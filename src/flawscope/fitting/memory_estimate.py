"""Predict the memory of a fit before it is begun."""

from __future__ import annotations

from typing import Any

from flawscope.fitting.preparation import prepare
from flawscope.fitting.training_pictures import Images
from flawscope.methods import registry
from flawscope.methods.settings import AUTO


def predicted_peak(
    images: Images, *, method: str = "patchcore", preset: str = "default", **call: Any
) -> int | None:
    """Bytes of memory that the process of such a fit takes at its peak; None where its method does not say,
    or where what it depends on is chosen by looking at the pictures.

    Args:
        images, method, preset, **call: as `prepare` takes them, which reads the sizes of the pictures.

    Raises:
        InputError: the fit cannot be begun.
    """
    asked = registry.method(method)
    if asked.peak is None:
        return None
    options = {k: v for k, v in call.items() if k in asked.config.__dataclass_fields__ or k == "scale"}
    config = registry.configure(asked, preset, options)
    if config.size == AUTO or config.locates is None:
        return None
    prepared = prepare(images, asked, preset=preset, **call)
    task, windows = prepared.task, prepared.windows
    return asked.peak(prepared.model, task if windows is None else windows.task(task))
