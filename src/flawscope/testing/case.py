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
    """Raise an AssertionError unless the condition is true; unlike `assert`, under `python -O`, too."""
    if not condition:
        raise AssertionError(message)


def draw_good_part(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a picture of a good part, [96, 96, 3] uint8; each call gives another picture."""
    return draw_picture(next(iter(CATEGORIES)), rng, size=96)[0]


def must_be_close(found: ArrayLike, wanted: ArrayLike, message: str, tolerance: float = TOLERANCE) -> None:
    """Raise an AssertionError unless each value is close to the wanted one.

    Args:
        found: The values.
        wanted: Values of the same shape.
        message: Text of the error.
        tolerance: Largest difference, as a share of the largest wanted value.
    """
    wanted_values = np.asarray(wanted)
    largest_difference = tolerance * float(np.abs(wanted_values).max())
    np.testing.assert_allclose(
        np.asarray(found), wanted_values, rtol=0, atol=largest_difference, err_msg=message
    )


def must_refuse(call: Callable[[], object], message: str) -> str:
    """Check that a call raises an InputError of a single line, and return its text.

    Args:
        call: Function without arguments.
        message: Beginning of the AssertionError's text: what must be refused.
    """
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
        outputs: Scores and maps for `Case.prediction_pictures`, computed before the model was saved.
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

    A model has three variants:

    - "plain",
    - "region": it has a region of interest, and learns from parts with two pictures each,
    - "padded": it learns from wide strips, which are padded above and below.

    Attributes:
        method: The method.
        settings: Settings that make the method small.
        data: Folder of a category in a layout that `open_dataset` reads; None: a category is generated.
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
        category = draw_dataset(folder, train=GOOD_COUNT, good=2, bad_per_kind=1, size=96, seed=1)
        return open_dataset(os.fspath(category))

    @property
    def good_pictures(self) -> list[PictureSource]:
        """Paths of the first `GOOD_COUNT` training pictures."""
        return [item.path for item in self.dataset.train[:GOOD_COUNT]]

    @property
    def probes(self) -> list[PictureSource]:
        """Test pictures that no model has seen: two good ones, then two with defects."""
        good = [item.path for item in self.dataset.test if not item.anomalous]
        defects = [item.path for item in self.dataset.test if item.anomalous]
        return [*good[:2], *defects[:2]]

    @cached_property
    def defect(self) -> NDArray[np.uint8]:
        """Picture of a good part with a conspicuous block at the lower left: magenta with green lines."""
        picture = np.array(decode(self.good_pictures[0]))
        height, width, _ = picture.shape
        block = picture[height * 5 // 8 : height * 7 // 8, width // 8 : width * 3 // 8]
        block[:] = (255, 0, 255)
        block[::4] = (0, 255, 0)
        return picture

    @property
    def pair_pattern(self) -> str:
        """Pattern of names by which the first six good pictures show three parts, two pictures each."""
        names = [re.escape(Path(cast(Path, source)).name) for source in self.good_pictures]
        pairs = zip(names[0:6:2], names[1:6:2], strict=True)
        # The texts of a pattern's groups name a part: each pair matches an empty group of its own.
        return "|".join(f"(?:{first}|{second})()" for first, second in pairs)

    def training_pictures(self, variant: str) -> list[PictureSource]:
        """Return the pictures that a variant is fitted on.

        They are the good pictures, a copy of one of them, and bytes that are no picture. For "padded", they
        are only strips of the good pictures.
        """
        if variant == "padded":
            return [cut_strip(source) for source in self.good_pictures]
        copy = decode(self.good_pictures[0])
        return [*self.good_pictures, copy, b"no picture"]

    # ---- models

    def fit_options(self, variant: str) -> Json:
        """Return the arguments of `fit` for a variant, except for the pictures."""
        options: Json = {"method": self.method.name, "device": "cpu", "samples": 1, **self.settings}
        if variant == "region":
            options |= {"roi": "0,0,0.5,1", "group": self.pair_pattern}
        elif variant == "padded":
            options["keep_aspect"] = True
        return options

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

        sources = self.training_pictures(variant) if pictures is None else list(pictures)
        return fit(sources, **{"check": False, **self.fit_options(variant), **more})

    def fit_result(self, variant: str = "plain") -> FitResult:
        """Return a variant of the model with records of its fit; the first call fits, saves and reads it."""
        if variant not in self._fit_results:
            progress: list[tuple[str, int, int]] = []

            def step(stage: str, done: int, total: int) -> None:
                progress.append((stage, done, total))

            model = self.fit(variant=variant, check=variant == "plain", step=step)
            outputs = predict_scores_and_maps(model, self.prediction_pictures(variant))
            path = Path(self._temporary_folder.name) / f"{variant}.safetensors"
            model.save(path)
            loaded_model = load(path, device="cpu")
            assert isinstance(loaded_model, Predictor)
            self._fit_results[variant] = FitResult(loaded_model, outputs, model.failures, progress)
        return self._fit_results[variant]

    def fitted(self, variant: str = "plain") -> Predictor:
        """Return the model of a variant, read from its file."""
        return self.fit_result(variant).model

    def outputs(self, variant: str = "plain") -> ScoresAndMaps:
        """Return the scores and maps for `prediction_pictures` that were computed before saving the model."""
        return self.fit_result(variant).outputs

    def prediction_pictures(self, variant: str = "plain") -> list[PictureSource]:
        """Return the pictures for the predictions of a variant: the probes.

        For "padded", they are strips of two probes, and a whole probe, which needs no padding.
        """
        if variant != "padded":
            return self.probes
        return [*map(cut_strip, self.probes[::2]), self.probes[-1]]

    def exported_path(self, variant: str) -> Path:
        """Return the path of a variant's ONNX file; the first call exports it."""
        from flawscope.export.export import export

        path = Path(self._temporary_folder.name) / f"{variant}.onnx"
        if not path.exists():
            export(self.fitted(variant).artefact, path)
        return path


def cut_strip(source: PictureSource) -> NDArray[np.uint8]:
    """Cut the middle out of a picture, and resize it to a strip, [80, 320, 3].

    A model that keeps the aspect pads the strip above and below.
    """
    picture = decode(source)
    quarter = picture.shape[0] // 4
    middle = picture[quarter : 3 * quarter]
    return np.asarray(Image.fromarray(middle).resize((320, 80)))


def preprocess_pictures(model: Predictor, pictures: Sequence[PictureSource]) -> Floats:
    """Preprocess pictures for the network: `[N, 3, H, W]` float32."""
    return np.concatenate([model.manifest.preprocess(picture)[0] for picture in pictures])


def predict_scores_and_maps(
    model: Predictor, pictures: Sequence[PictureSource], batch: int = 1
) -> ScoresAndMaps:
    """Predict scores `[N]` and maps `[N, H, W]`, in batches of `batch` pictures."""
    images = preprocess_pictures(model, pictures)
    scores, maps = [], []
    for start in range(0, len(images), batch):
        batch_scores, batch_maps = model.session.run(images[start : start + batch])
        scores.append(batch_scores)
        maps.append(batch_maps)
    return np.concatenate(scores), np.concatenate(maps)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's thread count for a `with` block, and check that the block does not change it."""
    import torch

    count_before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        must(torch.get_num_threads() == count, "the number of torch's threads is not what it was")
    finally:
        torch.set_num_threads(count_before)
