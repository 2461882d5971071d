"""Evaluates a predictor on the test pictures of a data set, with intervals for its metrics."""

from flawscope.evaluation.evaluation import evaluate, valid_pixels
from flawscope.evaluation.result import NAMES, Evaluation

__all__ = ["NAMES", "Evaluation", "evaluate", "valid_pixels"]
