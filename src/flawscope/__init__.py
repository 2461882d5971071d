"""flawscope: learns what good parts look like and shows where a new picture differs.

    import flawscope
    model = flawscope.fit("pictures/good")
    print(model.predict("pictures/new.png"))

Names are imported when they are first used, so that `import flawscope` costs nothing.
"""

from __future__ import annotations

import os

from flawscope._lazy import lazy_names
from flawscope._version import __version__ as __version__

# ONNX Runtime, from version 1.29 on, sends facts of models and machines to its maker, unless this is set
# before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Type checkers take it for True. `typing.TYPE_CHECKING` would double the time of this import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.calibration.threshold import Calibration as Calibration
    from flawscope.datasets import Dataset as Dataset
    from flawscope.datasets import open_dataset as open_dataset
    from flawscope.errors import FlawscopeError as FlawscopeError
    from flawscope.errors import InputError as InputError
    from flawscope.evaluation.comparison import Comparison as Comparison
    from flawscope.evaluation.comparison import compare as compare
    from flawscope.evaluation.evaluation import evaluate as evaluate
    from flawscope.evaluation.result import Evaluation as Evaluation
    from flawscope.fitting.incremental_update import extend as extend
    from flawscope.fitting.joining import join as join
    from flawscope.fitting.view_models import fit as fit
    from flawscope.predictor import Predictor as Predictor
    from flawscope.predictor.router import Router as Router
    from flawscope.predictor.router import load as load
    from flawscope.results.prediction import Prediction as Prediction
    from flawscope.results.prediction import Region as Region
    from flawscope.results.table import Unjudged as Unjudged
    from flawscope.views.preprocess import Preprocess as Preprocess

_LAZY_IMPORTS = {
    "Calibration": "calibration.threshold",
    "Comparison": "evaluation.comparison",
    "Dataset": "datasets",
    "Evaluation": "evaluation.result",
    "FlawscopeError": "errors",
    "InputError": "errors",
    "Prediction": "results.prediction",
    "Predictor": "predictor",
    "Preprocess": "views.preprocess",
    "Region": "results.prediction",
    "Router": "predictor.router",
    "Unjudged": "results.table",
    "compare": "evaluation.comparison",
    "evaluate": "evaluation.evaluation",
    "extend": "fitting.incremental_update",
    "fit": "fitting.view_models",
    "join": "fitting.joining",
    "load": "predictor.router",
    "open_dataset": "datasets",
}


__getattr__ = lazy_names(__name__, _LAZY_IMPORTS)


__all__ = ["__version__", *sorted(_LAZY_IMPORTS)]


def __dir__() -> list[str]:
    return __all__
