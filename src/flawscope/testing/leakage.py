"""What a method must not learn from: held-out pictures, padding, and what lies outside of the region of
interest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.decoding import Source, decode, pixel_hash
from flawscope.predictor import Predictor
from flawscope.testing.case import Case, answers, detector_of, must, tensors


def held_out_is_not_learnt(case: Case) -> None:
    """A method that holds pictures out learns the same whatever is on them, but for the tensors that it
    declares as `calibrated`."""
    if not case.method.holds_out:
        return
    model = case.fitted()
    learnt = {p.hash for p in model.manifest.pictures if p.role in ("train", "duplicate")}

    def changed(source: Source) -> Source:
        if isinstance(source, bytes):
            return source
        picture = decode(source)
        return source if pixel_hash(picture) in learnt else picture.max() - picture

    other = case.fit([changed(source) for source in case.pictures("plain")], samples=0)
    _must_have_learnt(case, model, other, "other pictures held out")


def outside_is_not_learnt(case: Case) -> None:
    """What a picture shows outside of the region of interest changes neither what is learnt nor a score: give
    networks `Detector.filled`. And it is no part of what is learnt: of the same pictures as wholes other
    tensors are learnt. Learn from the cells that `Detector.inside` counts."""
    how: dict[str, Any] = {"group": None, "samples": 0}
    model = case.fit(case.good, "region", **how)
    hidden: list[Source] = [_seen(model, source) for source in case.good]
    _must_have_learnt(case, model, case.fit(hidden, "region", **how), "other pixels outside of the region")
    shown = [np.array(decode(source)) for source in case.probes]
    for picture in shown:
        outside = picture[:, picture.shape[1] * 5 // 8 :]  # scaling takes a little from across the border
        outside[:] = outside.max() - outside
    same = zip(answers(model, shown), answers(model, case.probes), strict=True)
    must(all(np.array_equal(*pair) for pair in same), "pixels outside of the region change the answer")
    _must_learn_other(case, model, case.fit(hidden, **how), "as much is learnt from outside of the region")


def padding_is_not_learnt(case: Case) -> None:
    """Padding is no part of what is learnt: of the same pixels as a picture without padding other tensors are
    learnt. Learn from the cells that `Detector.inside` counts."""
    model = case.fitted("strips")
    whole: list[Source] = [_seen(model, source) for source in case.pictures("strips")]
    other = case.fit(whole, "strips", samples=0)
    _must_learn_other(case, model, other, "as much is learnt from padding")


def _seen(model: Predictor, source: Source) -> NDArray[np.float32]:
    """A picture [H, W, 3] at the network's size, as networks see it."""
    import torch

    image = detector_of(model).filled(torch.from_numpy(tensors(model, [source])))
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def _learnt(case: Case, model: Predictor) -> dict[str, bytes]:
    """The tensors that a fit makes, but for those of held-out pictures."""
    others = {"roi", "samples", "sample_maps", *case.method.calibrated}
    return {k: v.tobytes() for k, v in model.artefact.tensors.items() if k not in others}


def _must_have_learnt(case: Case, one: Predictor, other: Predictor, text: str) -> None:
    before, after = _learnt(case, one), _learnt(case, other)
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    must(not changed, f"{text} change what is learnt: {', '.join(changed)}")


def _must_learn_other(case: Case, one: Predictor, other: Predictor, text: str) -> None:
    must(_learnt(case, one) != _learnt(case, other), text)


CHECKS: Sequence[Callable[[Case], None]] = (
    held_out_is_not_learnt,
    outside_is_not_learnt,
    padding_is_not_learnt,
)
