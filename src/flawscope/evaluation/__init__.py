"""Evaluates a predictor on the test pictures of a data set, with intervals for its metrics."""

from flawscope.evaluation.evaluation import evaluate, valid_pixels
from flawscope.evaluation.result import METRIC_NAMES, Evaluation
from flawscope.evaluation.robustness import Robustness, robustness

__all__ = ["METRIC_NAMES", "Evaluation", "Robustness", "evaluate", "robustness", "valid_pixels"]
