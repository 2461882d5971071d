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
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope import Dataset, InputError, Predictor, load, open_dataset
from flawscope.methods.method import Method
from flawscope.pictures.decoding import Source, decode
from flawscope.synthesis.demo.dataset import draw_dataset

if TYPE_CHECKING:
    from flawscope.methods.detector import Detector

Floats = NDArray[np.float32]
Answers = tuple[Floats, Floats]  # scores [N] and maps [N, H, W]
GOOD = 8  # pictures that are learnt from
SAME = 1e-5  # relative: the same numbers, added up in another order


def must(holds: object, text: str) -> None:
    """Raise AssertionError unless `holds`: unlike `assert` also under `python -O`."""
    if not holds:
        raise AssertionError(text)


def must_be_close(found: Any, wanted: Any, text: str, tolerance: float = SAME) -> None:
    """Assert that values are close, relative to the largest value wanted."""
    wanted = np.asarray(wanted)
    reach = tolerance * float(np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=reach, err_msg=text)


def must_refuse(call: Callable[[], Any], text: str) -> str:
    """Text of the InputError that the call must raise, which is one line."""
    try:
        call()
    except InputError as error:
        must("\n" not in str(error), f"{text}: {error!s} is more than a line")
        return str(error)
    raise AssertionError(f"{text}: nothing was refused")


class Made(NamedTuple):
    """A fitted model as it is read from its file, its answers for each of `Case.shown` before it was saved,
    and what the fit reported: its failures, and (stage, done, total) of its progress in order."""

    model: Predictor
    said: Answers
    failures: list[str]
    progress: list[tuple[str, int, int]]


@dataclass
class Case:
    """A method, settings that make it small, and the pictures; what was fitted is kept for other checks.

    data: a category in a layout that `open_dataset` reads; None: one is drawn.
    """

    method: Method
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    _made: dict[str, Made] = field(default_factory=dict)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="flawscope-")

    # ---- pictures

    @cached_property
    def dataset(self) -> Dataset:
        if self.data is not None:
            return open_dataset(os.fspath(self.data))
        folder = Path(self._folder.name)
        return open_dataset(
            os.fspath(draw_dataset(folder, train=GOOD, good=2, bad_per_kind=1, size=96, seed=1))
        )

    @property
    def good(self) -> list[Source]:
        return [item.path for item in self.dataset.train[:GOOD]]

    @property
    def probes(self) -> list[Source]:
        """Pictures to predict, which no model has seen: good ones and defects."""
        defects = [item.path for item in self.dataset.test if item.anomalous]
        others = [item.path for item in self.dataset.test if not item.anomalous]
        return [*others[:2], *defects[:2]]

    @cached_property
    def defect(self) -> NDArray[np.uint8]:
        """A good part with a conspicuous block, left and low."""
        picture = np.array(decode(self.good[0]))
        height, width = picture.shape[:2]
        picture[height * 5 // 8 : height * 7 // 8, width // 8 : width * 3 // 8] = (255, 0, 255)
        picture[height * 5 // 8 : height * 7 // 8 : 4, width // 8 : width * 3 // 8] = (0, 255, 0)
        return picture

    @property
    def pairs(self) -> str:
        """A pattern of names: the first two good pictures are one part, the next two another, and so on."""
        names = [re.escape(Path(cast(Path, source)).name) for source in self.good]
        return "|".join(f"(?:{one}|{other})()" for one, other in zip(names[:6:2], names[1:6:2], strict=True))

    def pictures(self, variant: str) -> list[Source]:
        """Pictures that the model is fitted on: among others a copy, and something that is not a picture."""
        if variant == "strips":
            return [strip(source) for source in self.good]
        return [*self.good, decode(self.good[0]), b"no picture"]

    # ---- models

    def options(self, variant: str) -> dict[str, Any]:
        """Arguments of `fit` beside the pictures."""
        of_variant: dict[str, dict[str, Any]] = {
            "region": {"roi": "0,0,0.5,1", "group": self.pairs},
            "strips": {"keep_aspect": True},
        }
        common = {"method": self.method.name, "device": "cpu", "samples": 1}
        return {**common, **self.settings, **of_variant.get(variant, {})}

    def fit(self, pictures: Sequence[Source] | None = None, variant: str = "plain", **more: Any) -> Predictor:
        from flawscope import fit

        given = self.pictures(variant) if pictures is None else list(pictures)
        return fit(given, **{"check": False, **self.options(variant), **more})

    def made(self, variant: str = "plain") -> Made:
        """A variant of the model, fitted when it is first asked for, saved and read."""
        if variant not in self._made:
            progress: list[tuple[str, int, int]] = []
            given: dict[str, Any] = {
                "check": variant == "plain",
                "step": lambda *report: progress.append(report),
            }
            fitted = self.fit(variant=variant, **given)
            said = answers(fitted, self.shown(variant))
            path = Path(self._folder.name) / f"{variant}.safetensors"
            fitted.save(path)
            read = load(path, device="cpu")
            assert isinstance(read, Predictor)
            self._made[variant] = Made(read, said, fitted.failures, progress)
        return self._made[variant]

    def fitted(self, variant: str = "plain") -> Predictor:
        """The model of a variant, as it is read from its file."""
        return self.made(variant).model

    def said(self, variant: str = "plain") -> Answers:
        """The model's answers for each of `shown` before it was saved."""
        return self.made(variant).said

    def shown(self, variant: str = "plain") -> list[Source]:
        """Pictures that the model of a variant is asked about: of strips, also a picture without padding."""
        return [*map(strip, self.probes[::2]), self.probes[-1]] if variant == "strips" else self.probes

    def exported(self, variant: str) -> Path:
        """The model of a variant as an ONNX file."""
        from flawscope.export.export import export

        path = Path(self._folder.name) / f"{variant}.onnx"
        if not path.exists():
            export(self.fitted(variant).artefact, path)
        return path


def strip(source: Source) -> NDArray[np.uint8]:
    """A picture of 320x80, which leaves padding above and below."""
    middle = decode(source)
    high = middle.shape[0] // 4
    return np.asarray(Image.fromarray(middle[high : 3 * high]).resize((320, 80)))


def tensors(model: Predictor, pictures: Sequence[Source]) -> Floats:
    """Pictures as the network takes them, `[N, 3, H, W]`."""
    return np.concatenate([model.manifest.preprocess(picture)[0] for picture in pictures])


def answers(model: Predictor, pictures: Sequence[Source], batch: int = 1) -> Answers:
    """Scores `[N]` and maps `[N, H, W]`, in batches."""
    images = tensors(model, pictures)
    parts = [model.session.run(images[k : k + batch]) for k in range(0, len(images), batch)]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


def detector_of(model: Predictor) -> Detector:
    return cast("Detector", cast(Any, model.session).model)


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
