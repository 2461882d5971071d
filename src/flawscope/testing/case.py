"""Input of the checks: a method, pictures, and the models fitted so far."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from flawscope.datasets import Dataset, open_dataset
from flawscope.errors import InputError
from flawscope.methods.method import Method
from flawscope.pictures.decoding import PictureSource, decode
from flawscope.predictor import Predictor
from flawscope.predictor.router import load
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_dataset, draw_picture
from flawscope.types import Json

Floats = NDArray[np.float32]
ScoresAndMaps = tuple[Floats, Floats]  # scores [N] and maps [N, H, W]
GOOD_COUNT = 8  # good pictures that are learnt from
TOLERANCE = 1e-5  # relative: the same numbers, added up in another order


def must(condition: object, message: str) -> None:
    """Raise an AssertionError unless the condition holds, unlike `assert` also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def draw_good_part(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a picture of a good part, [96, 96, 3] uint8; each call gives another picture."""
    return draw_picture(next(iter(CATEGORIES)), rng, size=96)[0]


def must_be_close(found: ArrayLike, wanted: ArrayLike, message: str, tolerance: float = TOLERANCE) -> None:
    """Raise an AssertionError unless values are close, relative to the largest wanted value."""
    wanted = np.asarray(wanted)
    reach = tolerance * float(np.abs(wanted).max())
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=reach, err_msg=message)


def must_refuse(call: Callable[[], object], message: str) -> str:
    """Return the text of the InputError that the call must raise; it must be a single line."""
    try:
        call()
    except InputError as error:
        must("\n" not in str(error), f"{message}: {error!s} is more than a line")
        return str(error)
    raise AssertionError(f"{message}: nothing was refused")


class FitResult(NamedTuple):
    """Fitted model, and records of its fit.

    Attributes:
        model: The model, read from its file.
        outputs: Scores and maps for `Case.prediction_pictures` before the model was saved.
        failures: Failures of the fit.
        progress: Progress of the fit in order: (stage, done, total).
    """

    model: Predictor
    outputs: ScoresAndMaps
    failures: list[str]
    progress: list[tuple[str, int, int]]


@dataclass
class Case:
    """Method, settings that make it small, and pictures; fitted models are kept for other checks.

    A model has variants: "plain", "region" (of interest, with pairs of pictures of one part) and "padded" (of
    wide strips, which it pads above and below).

    Attributes:
        method: The method.
        settings: Settings that make it small.
        data: Folder of a category in a layout that `open_dataset` reads; None: one is generated.
    """

    method: Method
    settings: Mapping[str, object] = field(default_factory=dict)
    data: Path | None = None
    _fit_results: dict[str, FitResult] = field(default_factory=dict)

    @cached_property
    def _temporary_folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="flawscope-")

    # ---- pictures

    @cached_property
    def dataset(self) -> Dataset:
        """Category in `data`, or a generated one of 96x96 pixels."""
        if self.data is not None:
            return open_dataset(os.fspath(self.data))
        folder = Path(self._temporary_folder.name)
        return open_dataset(
            os.fspath(draw_dataset(folder, train=GOOD_COUNT, good=2, bad_per_kind=1, size=96, seed=1))
        )

    @property
    def good_pictures(self) -> list[PictureSource]:
        """Paths of the first `GOOD_COUNT` training pictures."""
        return [item.path for item in self.dataset.train[:GOOD_COUNT]]

    @property
    def probes(self) -> list[PictureSource]:
        """Test pictures that no model has seen: two good ones, then two with defects."""
        defects = [item.path for item in self.dataset.test if item.anomalous]
        others = [item.path for item in self.dataset.test if not item.anomalous]
        return [*others[:2], *defects[:2]]

    @cached_property
    def defect(self) -> NDArray[np.uint8]:
        """Picture of a good part with a conspicuous block, left and low."""
        picture = np.array(decode(self.good_pictures[0]))
        height, width = picture.shape[:2]
        picture[height * 5 // 8 : height * 7 // 8, width // 8 : width * 3 // 8] = (255, 0, 255)
        picture[height * 5 // 8 : height * 7 // 8 : 4, width // 8 : width * 3 // 8] = (0, 255, 0)
        return picture

    @property
    def pair_pattern(self) -> str:
        """Pattern of names by which the first six good pictures are three parts, two pictures each."""
        names = [re.escape(Path(cast(Path, source)).name) for source in self.good_pictures]
        return "|".join(
            f"(?:{first}|{other})()" for first, other in zip(names[:6:2], names[1:6:2], strict=True)
        )

    def training_pictures(self, variant: str) -> list[PictureSource]:
        """Return the pictures that a variant is fitted on, with a copy and bytes that are no picture.

        The "padded" variant has neither.
        """
        if variant == "padded":
            return [cut_strip(source) for source in self.good_pictures]
        return [*self.good_pictures, decode(self.good_pictures[0]), b"no picture"]

    # ---- models

    def fit_options(self, variant: str) -> Json:
        """Return the arguments of `fit` for a variant, without the pictures."""
        of_variant: dict[str, Json] = {
            "region": {"roi": "0,0,0.5,1", "group": self.pair_pattern},
            "padded": {"keep_aspect": True},
        }
        common = {"method": self.method.name, "device": "cpu", "samples": 1}
        return {**common, **self.settings, **of_variant.get(variant, {})}

    def fit(
        self, pictures: Sequence[PictureSource] | None = None, variant: str = "plain", **more: object
    ) -> Predictor:
        """Fit a variant of the model.

        Args:
            pictures: Good pictures; None: `training_pictures`.
            variant: Name of the variant.
            **more: Arguments of `fit` that replace those of `fit_options`.
        """
        from flawscope.fitting.fitting import fit

        given = self.training_pictures(variant) if pictures is None else list(pictures)
        return fit(given, **{"check": False, **self.fit_options(variant), **more})

    def fit_result(self, variant: str = "plain") -> FitResult:
        """Return a variant of the model, which is fitted, saved and read at the first call."""
        if variant not in self._fit_results:
            progress: list[tuple[str, int, int]] = []
            given: Json = {
                "check": variant == "plain",
                "step": lambda *report: progress.append(report),
            }
            fitted = self.fit(variant=variant, **given)
            said = predict_scores_and_maps(fitted, self.prediction_pictures(variant))
            path = Path(self._temporary_folder.name) / f"{variant}.safetensors"
            fitted.save(path)
            read = load(path, device="cpu")
            assert isinstance(read, Predictor)
            self._fit_results[variant] = FitResult(read, said, fitted.failures, progress)
        return self._fit_results[variant]

    def fitted(self, variant: str = "plain") -> Predictor:
        """Return the model of a variant, read from its file."""
        return self.fit_result(variant).model

    def outputs(self, variant: str = "plain") -> ScoresAndMaps:
        """Return the model's scores and maps for `prediction_pictures` before it was saved."""
        return self.fit_result(variant).outputs

    def prediction_pictures(self, variant: str = "plain") -> list[PictureSource]:
        """Return the pictures that a variant predicts; the "padded" one also a picture without padding."""
        return [*map(cut_strip, self.probes[::2]), self.probes[-1]] if variant == "padded" else self.probes

    def exported_path(self, variant: str) -> Path:
        """Return the path of a variant's ONNX file, which is exported at the first call."""
        from flawscope.export.export import export

        path = Path(self._temporary_folder.name) / f"{variant}.onnx"
        if not path.exists():
            export(self.fitted(variant).artefact, path)
        return path


def cut_strip(source: PictureSource) -> NDArray[np.uint8]:
    """Cut a strip from a picture's middle, 320x80: a model that keeps the aspect pads it above and below."""
    middle = decode(source)
    high = middle.shape[0] // 4
    return np.asarray(Image.fromarray(middle[high : 3 * high]).resize((320, 80)))


def preprocess_pictures(model: Predictor, pictures: Sequence[PictureSource]) -> Floats:
    """Preprocess pictures for the network: `[N, 3, H, W]` float32."""
    return np.concatenate([model.manifest.preprocess(picture)[0] for picture in pictures])


def predict_scores_and_maps(
    model: Predictor, pictures: Sequence[PictureSource], batch: int = 1
) -> ScoresAndMaps:
    """Predict scores `[N]` and maps `[N, H, W]`, in batches."""
    images = preprocess_pictures(model, pictures)
    parts = [model.session.run(images[k : k + batch]) for k in range(0, len(images), batch)]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads for a `with` block, and check that the block does not change it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        must(torch.get_num_threads() == count, "the number of torch's threads is not what it was")
    finally:
        torch.set_num_threads(before)
