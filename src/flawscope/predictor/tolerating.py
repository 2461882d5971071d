"""Applies a person's tolerances to the predictions of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ParamSpec

from flawscope.errors import InputError, join_names
from flawscope.predictor.predictor import Predictor
from flawscope.predictor.router import Router
from flawscope.predictor.streaming import SourceResult
from flawscope.results.prediction import Prediction
from flawscope.results.tolerance import ANY, apply_tolerances
from flawscope.results.tolerance import Tolerances as Tolerances

Tolerate = Callable[[Prediction], Prediction]
StreamArguments = ParamSpec("StreamArguments")


def tolerator(model: Predictor | Router, tolerances: Tolerances) -> Tolerate:
    """Return a function that applies tolerances to one of the model's predictions.

    Raises:
        InputError: A rule is for a kind that the model does not name.
    """
    names: list[str] = []
    for product in model.products.values():
        if product.manifest.kinds is not None:
            names += product.manifest.kinds.names
    for rule in tolerances.rules:
        if rule.kind not in (ANY, *names):
            known_names = join_names([*dict.fromkeys(names)]) or "no kinds"
            raise InputError(
                f"the tolerances have a rule for the kind {rule.kind!r}, and the model names "
                f"{known_names}: correct the rule, or teach it"
            )

    def tolerate(prediction: Prediction) -> Prediction:
        if not prediction.is_anomalous:
            return prediction
        if prediction.parts.numbers is not None:
            return apply_tolerances(prediction, prediction.parts.numbers, tolerances)
        # the map comes from the nearest product's model, even if the picture shows none of the products
        name = "" if prediction.recognition is None else prediction.recognition.nearest
        mask = model.product(name).valid_mask(prediction.geometry)
        return apply_tolerances(prediction, mask, tolerances)

    return tolerate


def tolerating(
    model: Predictor | Router,
    stream: Callable[StreamArguments, Iterator[SourceResult]],
    tolerances: Tolerances,
) -> Callable[StreamArguments, Iterator[SourceResult]]:
    """Return a model's `stream` with the tolerances applied to its predictions.

    Raises:
        InputError: A rule is for a kind that the model does not name, or the model decides on whole parts, by
            the scores of all their views.
    """
    if model.parts() is not None:
        raise InputError(
            "tolerances are not for parts in views, which the scores of all views decide on together: leave "
            "them out"
        )
    tolerate = tolerator(model, tolerances)

    def stream_tolerated(
        *args: StreamArguments.args, **kwargs: StreamArguments.kwargs
    ) -> Iterator[SourceResult]:
        for source, result in stream(*args, **kwargs):
            yield source, result if isinstance(result, InputError) else tolerate(result)

    return stream_tolerated
