"""Models that judge pictures: `predictor` for a single product, `router` for several. Torch-free."""

from flawscope.predictor.parts import PartCollector as PartCollector
from flawscope.predictor.predictor import Predictor as Predictor
from flawscope.predictor.predictor import fitted_artefact as fitted_artefact
from flawscope.predictor.predictor import open_fitted as open_fitted
from flawscope.predictor.streaming import PictureOf as PictureOf
from flawscope.predictor.streaming import PreparedPicture as PreparedPicture
from flawscope.runtime import read_manifest as read_manifest
