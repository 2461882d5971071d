"""Gathers what commands know for `results.advice`, and gives the lines that they print."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.datasets import Dataset
    from flawscope.datasets.check import CheckReport
    from flawscope.results.advice import Advice

READ_MASKS = 40  # masks that are read for the sizes of defects


def before_fit(dataset: Dataset) -> list[str]:
    """Lines on how the parts lie."""
    from flawscope.results.advice import Facts, advice
    from flawscope.synthesis.part_places import alignment_needed

    return [one.line() for one in advice(Facts(lies=alignment_needed([i.path for i in dataset.train])))]


def after_fit(manifest: Manifest) -> list[str]:
    from flawscope.predictor.rates import promise_of
    from flawscope.results.advice import Facts, advice

    promise = promise_of(manifest)
    facts = Facts(rate=manifest.calibration.rate, missing=promise.missing)
    return [f"next: {one.line()}" for one in advice(facts)]


def after_check(dataset: Dataset, report: CheckReport, aligned: bool) -> list[Advice]:
    """Steps by the good pictures and the marked defects. aligned: how parts lie was said."""
    from flawscope.pictures.defect_size import default_network
    from flawscope.results.advice import Facts, advice
    from flawscope.synthesis.part_places import alignment_needed

    lies = None if aligned else alignment_needed([item.path for item in dataset.train])
    sizes = [(height, width) for width, height, count in report.sizes for _ in range(count)]
    network = default_network(sizes) if sizes and lies is None and not aligned else None
    marks = _marked_lengths(dataset) if network is not None else []
    return advice(Facts(lies=lies, marks=marks, pictures=sizes, network=network))


def _marked_lengths(dataset: Dataset) -> list[float]:
    """Length of the largest piece of each marked defect, in pixels of the pictures."""
    from flawscope.datasets.masks import read_any_mask
    from flawscope.errors import InputError
    from flawscope.pictures.pixel_sets import connected_parts, largest_sizes

    marked = [item for item in dataset.test if item.anomalous and item.masks]
    found = []
    for item in marked[:: max(1, len(marked) // READ_MASKS)]:
        with suppress(InputError):  # the check names it
            lengths = [largest_sizes(connected_parts(read_any_mask(mask))[1])[0] for mask in item.masks]
            found += [float(max(lengths))] if max(lengths) else []
    return found
