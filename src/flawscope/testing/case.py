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
    """Raise AssertionError unless the condition holds: unlike `assert` also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def draw_good_part(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a picture of a good part, [96, 96, 3]: each is another one."""
    return draw_picture(next(iter(CATEGORIES)), rng, size=96)[0]


def must_be_close(found: ArrayLike, wanted: ArrayLike, message: str, tolerance: float = TOLERANCE) -> None:
    """Raise AssertionError unless values are close, relative to the largest value wanted."""
    wanted = np.asarray(wanted)
    reach = tolerance * float(np.abs(wanted).max())
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=reach, err_msg=message)


def must_refuse(call: Callable[[], object], message: str) -> str:
    """Return the text of the InputError that the call must raise, and that must be one line."""
    try:
        call()
    except InputError as error:
        must("\n" not in str(error), f"{message}: {error!s} is more than a line")
        return str(error)
    raise AssertionError(f"{message}: nothing was refused")


class FitResult(NamedTuple):
    """A fitted model as read from its file; its outputs for `Case.prediction_pictures` before it was saved;
    the failures of the fit, and its progress in order: (stage, done, total).
    """

    model: Predictor
    outputs: ScoresAndMaps
    failures: list[str]
    progress: list[tuple[str, int, int]]


@dataclass
class Case:
    """A method, settings that make it small, and the pictures; what was fitted is kept for other checks.

    A model has variants: "plain", "region" (of interest, with pairs of pictures of one part) and "padded" (of
    wide strips, which it pads above and below).

    data: a category in a layout that `open_dataset` reads; None: one is drawn.
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
        if self.data is not None:
            return open_dataset(os.fspath(self.data))
        folder = Path(self._temporary_folder.name)
        return open_dataset(
            os.fspath(draw_dataset(folder, train=GOOD_COUNT, good=2, bad_per_kind=1, size=96, seed=1))
        )

    @property
    def good_pictures(self) -> list[PictureSource]:
        return [item.path for item in self.dataset.train[:GOOD_COUNT]]

    @property
    def probes(self) -> list[PictureSource]:
        """Pictures to predict, which no model has seen: good ones and defects."""
        defects = [item.path for item in self.dataset.test if item.anomalous]
        others = [item.path for item in self.dataset.test if not item.anomalous]
        return [*others[:2], *defects[:2]]

    @cached_property
    def defect(self) -> NDArray[np.uint8]:
        """A good part with a conspicuous block, left and low."""
        picture = np.array(decode(self.good_pictures[0]))
        height, width = picture.shape[:2]
        picture[height * 5 // 8 : height * 7 // 8, width // 8 : width * 3 // 8] = (255, 0, 255)
        picture[height * 5 // 8 : height * 7 // 8 : 4, width // 8 : width * 3 // 8] = (0, 255, 0)
        return picture

    @property
    def pair_pattern(self) -> str:
        """A pattern of names: the first two good pictures are one part, the next two another, and so on."""
        names = [re.escape(Path(cast(Path, source)).name) for source in self.good_pictures]
        return "|".join(f"(?:{one}|{other})()" for one, other in zip(names[:6:2], names[1:6:2], strict=True))

    def training_pictures(self, variant: str) -> list[PictureSource]:
        """Pictures that the model is fitted on: among others a copy, and something that is not a picture."""
        if variant == "padded":
            return [cut_strip(source) for source in self.good_pictures]
        return [*self.good_pictures, decode(self.good_pictures[0]), b"no picture"]

    # ---- models

    def fit_options(self, variant: str) -> Json:
        """Arguments of `fit`, without the pictures."""
        of_variant: dict[str, Json] = {
            "region": {"roi": "0,0,0.5,1", "group": self.pair_pattern},
            "padded": {"keep_aspect": True},
        }
        common = {"method": self.method.name, "device": "cpu", "samples": 1}
        return {**common, **self.settings, **of_variant.get(variant, {})}

    def fit(
        self, pictures: Sequence[PictureSource] | None = None, variant: str = "plain", **more: object
    ) -> Predictor:
        from flawscope.fitting.fitting import fit

        given = self.training_pictures(variant) if pictures is None else list(pictures)
        return fit(given, **{"check": False, **self.fit_options(variant), **more})

    def fit_result(self, variant: str = "plain") -> FitResult:
        """A variant of the model, fitted at the first call, saved and read."""
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
        """The model of a variant, as it is read from its file."""
        return self.fit_result(variant).model

    def outputs(self, variant: str = "plain") -> ScoresAndMaps:
        """The model's answers for each of `shown` before it was saved."""
        return self.fit_result(variant).outputs

    def prediction_pictures(self, variant: str = "plain") -> list[PictureSource]:
        """Pictures that the model of a variant predicts: if it pads, also a picture without padding."""
        return [*map(cut_strip, self.probes[::2]), self.probes[-1]] if variant == "padded" else self.probes

    def exported_path(self, variant: str) -> Path:
        """Path of the model of a variant as an ONNX file."""
        from flawscope.export.export import export

        path = Path(self._temporary_folder.name) / f"{variant}.onnx"
        if not path.exists():
            export(self.fitted(variant).artefact, path)
        return path


def cut_strip(source: PictureSource) -> NDArray[np.uint8]:
    """Cut a strip from the middle, as 320x80: a model that keeps the aspect pads it above and below."""
    middle = decode(source)
    high = middle.shape[0] // 4
    return np.asarray(Image.fromarray(middle[high : 3 * high]).resize((320, 80)))


def preprocess_pictures(model: Predictor, pictures: Sequence[PictureSource]) -> Floats:
    """Preprocess pictures as the network takes them, `[N, 3, H, W]`."""
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
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        must(torch.get_num_threads() == count, "the number of torch's threads is not what it was")
    finally:
        torch.set_num_threads(before)
