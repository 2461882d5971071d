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
    """Return a function that applies tolerances to a prediction of a model.

    Raises:
        InputError: A rule is for a kind that the model does not name.
    """
    named = [
        product.manifest.kinds for product in model.products.values() if product.manifest.kinds is not None
    ]
    names = [name for kinds in named for name in kinds.names]
    if strange := [rule.kind for rule in tolerances.rules if rule.kind not in (ANY, *names)]:
        raise InputError(
            f"the tolerances have a rule for the kind {strange[0]!r}, and the model names "
            f"{join_names([*dict.fromkeys(names)]) or 'no kinds'}: correct the rule, or teach it"
        )

    def tolerate(found: Prediction) -> Prediction:
        if not found.is_anomalous:
            return found
        # of what shows none of the products, the nearest one's model made the map
        judging = model.product("" if found.recognition is None else found.recognition.nearest)
        several = found.parts.numbers
        numbers = judging.valid_mask(found.geometry) if several is None else several
        return apply_tolerances(found, numbers, tolerances)

    return tolerate


def tolerating(
    model: Predictor | Router,
    stream: Callable[StreamArguments, Iterator[SourceResult]],
    tolerances: Tolerances,
) -> Callable[StreamArguments, Iterator[SourceResult]]:
    """Return a model's `stream` with the tolerances applied to its predictions.

    Raises:
        InputError: A rule is for a kind that the model does not name, or the model decides on parts in views.
    """
    if model.parts() is not None:
        raise InputError(
            "tolerances are not for parts in views, which the scores of all views decide on together: leave "
            "them out"
        )
    tolerate = tolerator(model, tolerances)

    def streamed(*given: StreamArguments.args, **how: StreamArguments.kwargs) -> Iterator[SourceResult]:
        for source, found in stream(*given, **how):
            yield source, found if isinstance(found, InputError) else tolerate(found)

    return streamed
