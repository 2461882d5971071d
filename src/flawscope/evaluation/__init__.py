"""A predictor on the test pictures of a data set, and how far its metrics may be from the truth."""

from flawscope.evaluation.evaluation import evaluate, valid_pixels
from flawscope.evaluation.result import NAMES, Evaluation

__all__ = ["NAMES", "Evaluation", "evaluate", "valid_pixels"]
