"""Judges pictures of several products by one model, which recognises the product by itself."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, overload

import numpy as np

from flawscope import predictor
from flawscope.artefact import joint_file
from flawscope.artefact.joint_file import JointArtefact
from flawscope.calibration.recognition import Recognised
from flawscope.calibration.threshold import Rate
from flawscope.errors import InputError
from flawscope.pictures.decoding import Source
from flawscope.predictor import Predictor
from flawscope.predictor.streaming import (
    Judged,
    Loaded,
    given_pictures,
    out_of_memory,
    predicted,
    streamed,
)
from flawscope.results.prediction import Prediction
from flawscope.runtime import JointSession, check_threads, open_joint_session


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    false_alarm_rate: Rate | None = None,
) -> Predictor | JointPredictor:
    """Opens a model file, .safetensors or .onnx: a `Predictor`, or of a joint model a `JointPredictor`.

    Args:
        engine: that runs an .onnx model, onnxruntime or openvino; None: ONNX Runtime, or OpenVINO where the
            model's precision is bf16. A .safetensors model runs in torch.
        device: auto, cpu, cuda or mps; in OpenVINO cpu, gpu or npu.
        threads: that compute one batch on a CPU, 1 or more; None leaves it to the engine. torch has one
            number for the whole process, so that of a .safetensors model holds for all that torch does.
        false_alarm_rate: another target than the one stored, 0.05 or "5%".

    Warns:
        UserWarning: the good pictures are too few for `false_alarm_rate`; the lowest rate that they allow,
            1 / (n + 1), is used.

    Raises:
        InputError: the file is missing, damaged, hostile or made by a newer version, or what runs it is not
            installed.
    """
    check_threads(threads)
    if not joint_file.is_joint(path):
        return predictor.load(
            path, engine=engine, device=device, threads=threads, false_alarm_rate=false_alarm_rate
        )
    artefact = joint_file.read(path)
    found = JointPredictor(artefact, open_joint_session(artefact, engine, device, threads))
    if false_alarm_rate is None:
        return found
    found = found.with_rate(false_alarm_rate)
    for name, one in found.products.items():
        if one.calibration.pictures_missing:
            warnings.warn(f"{name}: {one.calibration.promise()}", stacklevel=2)
    return found


class JointPredictor:
    """Fitted model of several products. It says which product a picture shows (`Recogniser` has the rule),
    and judges the picture as the model of that product alone does.

    Attributes:
        products: the model of each product, by its name.
    """

    def __init__(self, artefact: JointArtefact, session: JointSession):
        self.artefact = artefact
        self.session = session
        self.products: Mapping[str, Predictor] = {
            name: Predictor(one, session.products[name]) for name, one in artefact.products.items()
        }
        self._first = next(iter(self.products.values()))

    def __repr__(self) -> str:
        method, (height, width) = self._first.manifest.method, self.session.size
        return f"<JointPredictor {method} for {', '.join(self.products)}, {height}x{width}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model file, atomically."""
        if os.path.splitext(os.fspath(path))[1].lower() != joint_file.SUFFIX:
            raise InputError(f"a joint model is saved as {joint_file.SUFFIX}")
        self.session.save(self.artefact, path)

    def product(self, name: str) -> Predictor:
        """The model of one product. InputError where there is no such product."""
        self.artefact.product(name)
        return self.products[name]

    def recognising(self, name: str) -> Recognising:
        """The model of one product, which recognises the products of pictures that show this one."""
        return Recognising(self, name)

    def with_rate(self, false_alarm_rate: Rate) -> JointPredictor:
        """Returns the model with another target false-alarm rate for all products, 0.05 or "5%"."""
        parts = {name: one.with_rate(false_alarm_rate).artefact for name, one in self.products.items()}
        return JointPredictor(replace(self.artefact, products=parts), self.session)

    @overload
    def predict(self, pictures: Source, *, product: str | None = None, bgr: bool = False) -> Prediction: ...
    @overload
    def predict(
        self, pictures: list[Source], *, product: str | None = None, bgr: bool = False
    ) -> list[Prediction]: ...
    def predict(
        self, pictures: Source | list[Source], *, product: str | None = None, bgr: bool = False
    ) -> Prediction | list[Prediction]:
        """Judges pictures, as `Predictor.predict` does.

        Args:
            product: that all of them show; None: it is recognised.

        Raises:
            InputError: a picture cannot be read, or there is no such product. `stream` goes on instead.
        """
        return predicted(pictures, partial(self.stream, product=product, bgr=bgr))

    def stream(
        self,
        pictures: Iterable[Source] | Source,
        batch: int | None = None,
        *,
        product: str | None = None,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[Judged]:
        """Yields every picture with its prediction, or with the reason why there is none, in order.

        Args:
            product: that all of them show; None: it is recognised.
            pictures, batch, bgr, leave_out: as `Predictor.stream` takes them.

        Raises:
            InputError: there is no such product or folder, or no picture in it.
        """
        if product is not None:
            known = self.product(product).stream(pictures, batch, bgr=bgr, leave_out=leave_out)
            return ((source, _shows(result, product)) for source, result in known)
        load = partial(self._first.load, bgr=bgr, leave_out=leave_out)  # all products see pictures alike
        return streamed(given_pictures(pictures), load, self._judged, self.session, batch, tiled=False)

    def _judged(self, batch: Sequence[tuple[Source, Loaded]], run: Any) -> list[Judged]:
        """Judges pictures that are computed together, each by the product that it is most like."""
        good = [loaded[0] for _, loaded in batch if not isinstance(loaded, InputError)]
        if not good:
            return [(source, one) for source, one in batch if isinstance(one, InputError)]
        try:
            found, scores, maps = run(np.concatenate([views.images([0]) for views in good]))
        except MemoryError as error:
            return out_of_memory(batch, error)
        answers = zip(found, scores, maps, strict=True)
        judged: list[Judged] = []
        for source, one in batch:
            if isinstance(one, InputError):
                judged.append((source, one))
                continue
            shown, score, drawn = next(answers)
            of_nearest = self.products[shown.nearest].decided([(source, one)], np.array([score]), [drawn])
            judged.append((source, _recognised(of_nearest[0][1], shown)))
        return judged


def _shows(result: Prediction | InputError, product: str) -> Prediction | InputError:
    return replace(result, product=product) if isinstance(result, Prediction) else result


def _recognised(result: Prediction | InputError, shown: Recognised) -> Prediction | InputError:
    """The prediction with the product that was recognised. What is none of the products is no good part."""
    if not isinstance(result, Prediction):
        return result
    result = replace(result, product=shown.product, product_p_value=shown.p_value)
    if shown.product is not None:
        return result
    return replace(result, is_anomalous=True, severity=max(result.severity, math.ulp(0.0)))


class Recognising(Predictor):
    """Model of one product, whose `stream` recognises the products of pictures that are known to show this
    one, and judges those that are mistaken for another as this product's.

    Attributes:
        seen: number of pictures that were judged.
        mistaken: how many of them were taken for each other product, or for none of these.
    """

    def __init__(self, joint: JointPredictor, name: str):
        known = joint.product(name)
        super().__init__(known.artefact, known.session)
        self.joint, self.name = joint, name
        self.seen, self.mistaken = 0, Counter[str]()

    def to_dict(self) -> dict[str, Any]:
        """The counts, for `evaluate --json`."""
        return {"pictures": self.seen, "mistaken": dict(self.mistaken)}

    def stream(
        self,
        pictures: Iterable[Source] | Source,
        batch: int | None = None,
        *,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[Judged]:
        for source, result in self.joint.stream(pictures, batch, bgr=bgr, leave_out=leave_out):
            if not isinstance(result, Prediction):
                yield source, result
                continue
            self.seen += 1
            if result.product == self.name:
                yield source, result
                continue
            self.mistaken[result.product_name] += 1
            yield from super().stream([source], bgr=bgr)
