"""A predictor on the test pictures of a data set, and how far its metrics may be from the truth."""

from flawscope.evaluation.evaluation import NAMES, Evaluation, evaluate, valid_pixels

__all__ = ["NAMES", "Evaluation", "evaluate", "valid_pixels"]
