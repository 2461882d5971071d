"""Measures predictors on test pictures: metrics with their intervals, reports, benchmarks. Torch-free."""

from __future__ import annotations

from flawscope import lazy_names

# Imported when they are first used: the command line knows of reports before anything is measured
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.evaluation.evaluation import evaluate as evaluate
    from flawscope.evaluation.evaluation import valid_pixels as valid_pixels
    from flawscope.evaluation.result import METRIC_NAMES as METRIC_NAMES
    from flawscope.evaluation.result import Evaluation as Evaluation
    from flawscope.evaluation.robustness import Robustness as Robustness

__getattr__ = lazy_names(
    __name__,
    {
        "METRIC_NAMES": "result",
        "Evaluation": "result",
        "Robustness": "robustness",
        "evaluate": "evaluation",
        "valid_pixels": "evaluation",
    },
)
