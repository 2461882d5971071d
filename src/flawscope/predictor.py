"""Picture in, decision out: preprocess, session, calibration. Torch-free; the session brings its engine."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.artefact import model_file
from flawscope.artefact.certificate import STRIDE, Certificate, compare
from flawscope.artefact.model_file import Artefact, Manifest, Picture
from flawscope.artefact.samples import unpack_images
from flawscope.calibration.decision import Calibration, Rate, from_values
from flawscope.calibration.simulated import described, recounted
from flawscope.datasets import list_pictures
from flawscope.errors import InputError, LeftOut
from flawscope.pictures.appearance import KEY as APPEARANCE
from flawscope.pictures.appearance import Appearance, Measures, measure
from flawscope.pictures.decoding import Source, decode, pixel_hash, reason
from flawscope.pictures.geometry import Geometry
from flawscope.pictures.views import Region, Views
from flawscope.progress import Step, counted, silent
from flawscope.results import html
from flawscope.results.prediction import NEARBY, Prediction
from flawscope.runtime import (
    SUFFIXES,
    TRAINED,
    Run,
    Session,
    check_threads,
    open_session,
    read,
    read_manifest,
)

SAMPLES = 3  # stored pictures that a notebook shows
AHEAD = 4  # batches decoded while one is being computed
LARGE = 50_000_000  # pixels of a picture beside which no other one is held


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    false_alarm_rate: Rate | None = None,
) -> Predictor:
    """Open a model file, .safetensors or .onnx.

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
    artefact = read(path)
    predictor = Predictor(artefact, open_session(artefact, path, engine, device, threads))
    if false_alarm_rate is None:
        return predictor
    predictor = predictor.with_rate(false_alarm_rate)
    if predictor.calibration.pictures_missing:
        warnings.warn(predictor.calibration.promise(), stacklevel=2)
    return predictor


def trained(model: str | os.PathLike[str] | Artefact | Predictor) -> Artefact:
    """What a fitted model is made of, from its file, as it was read from one, or open.

    Raises:
        InputError: it is an exported one, or its file cannot be read.
    """
    if isinstance(model, Artefact):
        return model
    suffix = model.session.suffix if isinstance(model, Predictor) else os.path.splitext(model)[1].lower()
    if suffix in SUFFIXES and suffix != TRAINED:
        name = "this" if isinstance(model, Predictor) else os.fspath(model)
        raise InputError(f"{name} is an exported model: name the {TRAINED} file that it was made from")
    return model.artefact if isinstance(model, Predictor) else model_file.read(model)


class Predictor:
    """A fitted model that answers for pictures: paths, bytes, PIL images, numpy `[H, W, 3]` uint8.

    Attributes:
        manifest: everything that is known about the model.
        calibration: score to p-value, severity and decision.
        appearance: the range of the training pictures as a whole; None in models that do not know it.
        failures: pictures that `fit` could not use, each with the reason.
    """

    def __init__(self, artefact: Artefact, session: Session):
        wanted = artefact.manifest.preprocess.network_size
        if tuple(wanted) != tuple(session.size):
            raise InputError(
                f"the model's manifest says pictures of {wanted[0]}x{wanted[1]}, its network takes "
                f"{session.size[0]}x{session.size[1]}: fit anew"
            )
        self.artefact = artefact
        self.session = session
        self.appearance = Appearance.from_facts(artefact.manifest.facts)
        self.failures: list[str] = []
        self.suspects: list[tuple[str, float]] = []  # pictures `fit` found suspicious, with their scores

    @property
    def manifest(self) -> Manifest:
        return self.artefact.manifest

    @property
    def calibration(self) -> Calibration:
        return self.artefact.manifest.calibration

    def __repr__(self) -> str:
        facts = dict(self._facts())
        return f"<Predictor {facts['model']}, {facts['pictures']}; {facts['decision']}>"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """What matters, for a person."""
        manifest, (height, width) = self.manifest, self.session.size
        of = f" for {manifest.category}" if manifest.category else ""
        yield "model", f"{manifest.method}{of}, {height}x{width}, {self.session.runtime}"
        learnt = Counter(picture.role for picture in manifest.pictures)
        yield "pictures", ", ".join(f"{n} {role}" for role, n in learnt.items()) or "no pictures known"
        yield "decision", self.calibration.promise()

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and the pictures that it holds."""
        found = described(self.manifest.facts, self.calibration)
        rows = [*self._facts(), *([("simulated defects found", found)] if found else [])]
        rows += [("note", note) for note in self.manifest.notes]
        samples = self.artefact.tensors.get("samples")
        pictures = [] if samples is None else [*unpack_images(samples[:SAMPLES])]
        shown = [(255 * p.transpose(1, 2, 0).clip(0, 1)).astype(np.uint8) for p in pictures]
        return html.table(rows) + "".join(html.image_tag(html.small(one)) for one in shown)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically."""
        if os.path.splitext(os.fspath(path))[1].lower() != self.session.suffix:
            raise InputError(
                f"this model is saved as {self.session.suffix}; `flawscope export` makes the other kinds"
            )
        self.session.save(self.artefact, path)

    # ---- prediction

    @overload
    def predict(self, pictures: Source, *, bgr: bool = False) -> Prediction: ...
    @overload
    def predict(self, pictures: list[Source], *, bgr: bool = False) -> list[Prediction]: ...
    def predict(self, pictures: Source | list[Source], *, bgr: bool = False) -> Prediction | list[Prediction]:
        """One `Prediction` for one picture, a list for a list or a batch `[B, H, W, 3]` uint8.

        Args:
            bgr: the pictures are numpy arrays with the channels in OpenCV's order.

        Raises:
            InputError: a picture cannot be read. `stream` goes on instead.
        """
        if isinstance(pictures, np.ndarray) and pictures.ndim == 4:
            pictures = list(pictures)
        if isinstance(pictures, list | tuple):
            return [_given(result) for _, result in self.stream(pictures, bgr=bgr)]
        if isinstance(pictures, str | os.PathLike) and os.path.isdir(pictures):
            raise InputError(f"{pictures} is a folder: stream({str(pictures)!r}) judges the pictures in it")
        return _given(self._judged([self._load(pictures, bgr)], self.session.run)[0][1])

    def stream(
        self,
        pictures: Iterable[Source] | Source,
        batch: int | None = None,
        *,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[Judged]:
        """Every picture with its prediction, or with the reason why there is none, in order.

        On a CPU several pictures are judged side by side, one core each, unless they are seen in tiles or
        fewer than there are cores. Some are looked at ahead; memory does not grow with their number.

        Args:
            pictures: any number of them, also without an end; or one path, a folder's with all pictures
                below it.
            batch: pictures that are computed together, by default as many as are fastest; with 1, each is
                answered as soon as it is given.
            bgr: they are numpy arrays with the channels in OpenCV's order.
            leave_out: pictures whose decoded pixels have one of these hashes get a `LeftOut`.

        Raises:
            InputError: there is no such folder, or no picture in it.
        """
        return self._stream(_several(pictures), batch, bgr, leave_out)

    def _stream(
        self, pictures: Iterable[Source], batch: int | None, bgr: bool, leave_out: Collection[str]
    ) -> Iterator[Judged]:
        load = partial(self._load, bgr=bgr, leave_out=leave_out)
        waiting, lanes = iter(pictures), 1
        if batch is None and self.manifest.preprocess.tile is None:
            lanes = self.session.lanes
        first = list(islice(waiting, 1 if batch == 1 else max(2, lanes)))
        if len(first) > 1:
            waiting = chain(first, waiting)
            if 1 < lanes == len(first):
                yield from self._side_by_side(waiting, lanes, load)
            else:
                yield from self._in_batches(waiting, batch, load)
            return
        for source in chain(first, waiting):  # a single picture, or each as soon as it is given
            yield from self._judged([load(source)], self.session.run)

    def _side_by_side(self, waiting: Iterator[Source], lanes: int, load: Load) -> Iterator[Judged]:
        """Each picture from its path to its answer on one core, as many at once as there are cores: no core
        waits for another."""

        def answer(source: Source) -> tuple[bool, list[Judged]]:
            loaded = [load(source)]
            return _light(loaded), self._judged(loaded, self.session.run_alone)

        with ThreadPoolExecutor(lanes) as pool:
            queue = [pool.submit(answer, source) for source in islice(waiting, 2 * lanes)]
            try:
                while queue:
                    light, found = queue.pop(0).result()
                    wanted = 2 * lanes - len(queue) if light else 0 if queue else 1
                    queue += [pool.submit(answer, source) for source in islice(waiting, wanted)]
                    yield from found
            finally:  # nobody asks for these any more
                for future in queue:
                    future.cancel()

    def _in_batches(self, waiting: Iterator[Source], batch: int | None, load: Load) -> Iterator[Judged]:
        """So many pictures together on all that the engine has, or one after the other. Threads decode
        ahead."""
        tiled = self.manifest.preprocess.tile is not None
        size = 1 if tiled else batch or self.session.batch
        ahead = 1 if tiled else size * AHEAD
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            queue = [pool.submit(load, source) for source in islice(waiting, ahead)]
            while queue:
                ready = [future.result() for future in queue[:size]]
                del queue[:size]
                if not tiled or _light(ready):
                    queue += [pool.submit(load, source) for source in islice(waiting, len(ready))]
                yield from self._judged(ready, self.session.run)
                if not queue:  # the next one may not exist yet
                    queue += [pool.submit(load, source) for source in islice(waiting, 1)]

    def prepare(self, picture: Source) -> Prepared:
        """Decode a picture, to be judged later: this predictor's `stream` takes it in the picture's place.

        Raises:
            InputError: it cannot be read.
        """
        source, loaded = self._load(picture)
        if isinstance(loaded, InputError):
            raise loaded
        return Prepared(source, loaded)

    def _load(
        self, source: Source, bgr: bool = False, leave_out: Collection[str] = ()
    ) -> tuple[Source, Loaded]:
        if isinstance(source, Prepared):
            return source.source, source.seen
        try:
            given = _rgb(source) if bgr else source
            if not leave_out:
                return source, self._seen(given, None)
            picture = decode(given)
            if pixel_hash(picture) in leave_out:
                return source, LeftOut(f"{source!s:.200} is one of the pictures to leave out")
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
            return source, self._seen(picture, name)
        except InputError as error:
            return source, error
        except MemoryError as error:
            return source, InputError(reason(error, f"{source!s:.200}"))

    def _seen(self, picture: Source, name: str | None) -> Seen:
        """What is run, how far it lies outside of the training pictures as a whole, and its brightness."""
        views = self.manifest.preprocess.views(picture, name).within(self.artefact.tensors.get("region"))
        measured = measure(views.images([0])[0], self.artefact.tensors.get("roi"))
        shifts = () if self.appearance is None else self.appearance.shifts(measured)
        return views, shifts, measured[0] if measured else None

    def _answers(self, several: list[Views], run: Run) -> tuple[NDArray[Any], Sequence[NDArray[np.float32]]]:
        """Scores and maps of pictures."""
        fusion = self.manifest.fusion
        if fusion is None:
            found, drawn = run(np.concatenate([views.images([0]) for views in several]))
            return found, list(drawn)
        answers = (views.answer(run, fusion, self.session.batch) for views in several)
        scores, maps = zip(*answers, strict=True)
        return np.array(scores), maps

    def _judged(self, batch: Sequence[tuple[Source, Loaded]], run: Run) -> list[Judged]:
        """Pictures that are computed together."""
        good = [loaded for _, loaded in batch if not isinstance(loaded, InputError)]
        try:
            scores, maps = self._answers([views for views, _, _ in good], run) if good else (np.empty(0), [])
        except MemoryError as error:
            return [
                (s, loaded if isinstance(loaded, InputError) else InputError(reason(error, f"{s!s:.200}")))
                for s, loaded in batch
            ]
        c = self.calibration
        answers = zip(
            scores, maps, c.p_values(scores), c.severity(scores), c.is_anomalous(scores), strict=True
        )
        return [
            (
                source,
                loaded if isinstance(loaded, InputError) else self._judgement(source, loaded, *next(answers)),
            )
            for source, loaded in batch
        ]

    def _judgement(
        self,
        source: Source,
        seen: Seen,
        score: float,
        map_: Any,
        p_value: float,
        severity: float,
        anomalous: Any,
    ) -> Prediction | InputError:
        views, shifts, brightness = seen
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        if not math.isfinite(score):
            what = name or "a picture"
            return InputError(f"{what}: its score is not a number; fit with --set precision=fp32")
        return Prediction(
            score=float(score),
            p_value=float(p_value),
            severity=float(severity),
            is_anomalous=bool(anomalous),
            map=map_,
            geometry=views.geometry,
            score_threshold=self.calibration.score_threshold,
            mask_threshold=self.calibration.mask_threshold,
            colour_range=self.calibration.colour_range,
            path=name,
            shifts=shifts,
            outline=self.calibration.outline,
            nearby=NEARBY * max(self.session.size) / max(map_.shape),
            brightness=brightness,
        )

    # ---- calibration

    def with_calibration(self, calibration: Calibration, *notes: str) -> Predictor:
        facts = recounted(self.manifest.facts, calibration)
        notes = (*self.manifest.notes, *notes)
        manifest = replace(self.manifest, calibration=calibration, facts=facts, notes=notes)
        return Predictor(replace(self.artefact, manifest=manifest), self.session)

    def with_rate(self, false_alarm_rate: Rate) -> Predictor:
        """The same model at another target false-alarm rate, 0.05 or "5%"."""
        return self.with_calibration(self.calibration.with_rate(false_alarm_rate))

    def calibrate(self, good: Iterable[Source] | Source, step: Step = silent) -> Predictor:
        """The same model with thresholds from these good pictures: the camera or the light has changed.

        Pictures that the model was fitted on would score too low, and copies would count twice: both are
        left out, found by their decoded pixels.

        Args:
            good: the pictures, or a folder, as for `stream`.

        Raises:
            InputError: there are none, or none could be read. Single failures are collected in `failures`.
        """
        good = list(_several(good))
        kept = tuple(p for p in self.manifest.pictures if p.role != "calibration")
        fresh = _Fresh(good, {p.hash for p in kept})
        values, pictures, shifts, failures = [], [], [], []
        for done, (_, result) in enumerate(self.stream(fresh), start=1):
            if done < len(good):
                step("calibration", done, len(good))
            if isinstance(result, InputError):
                failures.append(str(result))
                continue
            counts = result.map[self.counted(result.geometry)]
            values.append((result.score, float(result.map.max()), float(np.median(counts))))
            name = os.path.basename(result.path) if result.path else f"picture {done - 1}"
            pictures.append(Picture(fresh.hashes[done - 1], "calibration", name))
            shifts.append(result.shifts)
        step("calibration", len(good), len(good))
        if not values:
            reason = "the model was fitted on all of them: give good pictures it has not seen"
            raise InputError(failures[0] if failures else reason if good else "no good pictures given")
        notes = [f"calibrated anew on {counted(len(values), 'good picture')}"]
        if left_out := len(good) - len(values) - len(failures):
            known = counted(left_out, "picture")
            notes.append(f"not calibrated with {known} that the model was fitted on, or copies")
        calibration = from_values(
            *zip(*values, strict=True),
            rate=self.calibration.rate,
            method="held out",
            runtime=self.session.runtime,
            precision=self.calibration.precision,
            outline=self.calibration.outline,
        )
        new = self.with_calibration(calibration, *notes)._calibrated_on((*kept, *pictures), shifts)
        new.failures = failures
        return new

    def counted(self, geometry: Geometry) -> NDArray[np.bool_]:
        """[H, W] at the size of a prediction's map: the pixels that show the picture, not a letterbox's
        border, and lie in the region of interest."""
        how, region = self.manifest.preprocess, self.artefact.tensors.get("region")
        if how.tile is None or geometry == how.whole.geometry(geometry.picture_size):  # one view
            inside = self.artefact.tensors.get("roi", np.ones(self.session.size, np.bool_))
            inside = inside if region is None else region
            return inside & geometry.inside() if how.marks_padding else inside
        if region is None:
            return np.ones(geometry.size, np.bool_)
        whole = how.whole.geometry(geometry.picture_size)
        return Region(region, whole, geometry.size).window(0, 0, *geometry.size)

    def _calibrated_on(self, pictures: tuple[Picture, ...], shifts: Sequence[Measures]) -> Predictor:
        # groups are of pictures that were left out; these were not
        facts = {k: v for k, v in self.manifest.facts.items() if k != "calibration_groups"}
        facts["calibration_pictures"] = [p.hash for p in pictures if p.role == "calibration"]
        if self.appearance is not None:  # pictures like these are expected from now on
            facts[APPEARANCE] = self.appearance.widened(shifts).to_dict()
        manifest = replace(self.manifest, pictures=pictures, facts=facts)
        return Predictor(replace(self.artefact, manifest=manifest), self.session)

    # ---- self-test

    def self_test(self) -> Certificate:
        """Run the artefact's sample pictures on this machine and compare with what the trained model said of
        them, or with what a model of reduced precision said where it was exported."""
        samples = self.artefact.tensors.get("samples")
        if samples is None or not len(samples):
            raise InputError(
                "the model holds no sample pictures: it was fitted with --no-samples, or they are too many "
                "or too deep for this kind of file"
            )
        images = unpack_images(samples)
        wrong = InputError("the model's sample pictures do not fit its manifest: fit anew")
        try:
            scores = np.array([s["score"] for s in self.manifest.samples], np.float64)
        except (KeyError, TypeError, ValueError):
            raise wrong from None
        maps = self.artefact.tensors.get("sample_maps")
        height, width = self.session.size
        grid = (len(images), -(-height // STRIDE), -(-width // STRIDE))
        if images.shape != (len(scores), 3, height, width) or (maps is not None and maps.shape != grid):
            raise wrong
        return compare(
            self.session,
            images,
            scores,
            maps,
            calibration=self.calibration,
            runtime=self.session.runtime,
            ties=np.array([s.get("tie") is True for s in self.manifest.samples]),
            stride=STRIDE,
        )


def _given(result: Prediction | InputError) -> Prediction:
    if isinstance(result, InputError):
        raise result
    return result


def _several(pictures: Iterable[Source] | Source) -> Iterable[Source]:
    """The pictures that are meant by what `stream` is given."""
    if isinstance(pictures, str | os.PathLike):
        return list_pictures(pictures)
    if isinstance(pictures, bytes | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [pictures]
    return pictures


def _rgb(source: Source) -> NDArray[Any]:
    """A picture of OpenCV, [H, W], [H, W, 3] BGR or [H, W, 4] BGRA, with its channels in our order."""
    if not isinstance(source, np.ndarray):
        raise InputError(f"bgr=True is for numpy arrays, not for {type(source).__name__}: leave it out")
    if source.ndim != 3 or source.shape[2] not in (3, 4):
        return source
    return source[:, :, [2, 1, 0, 3][: source.shape[2]]]


class _Fresh:
    """The pictures whose pixels are not known yet, each once; `hashes` of those given out so far."""

    def __init__(self, pictures: Iterable[Source], known: set[str]):
        self.pictures, self.known = pictures, known
        self.hashes: list[str] = []

    def __iter__(self) -> Iterator[Source]:
        for source in self.pictures:
            try:
                digest = pixel_hash(decode(source))
            except (InputError, MemoryError):
                digest = f"unreadable {len(self.hashes)}"  # `stream` says why
            if digest not in self.known:
                self.known.add(digest)
                self.hashes.append(digest)
                yield source


def _light(loaded: Sequence[tuple[Source, Loaded]]) -> bool:
    """Whether another picture may be held beside these."""
    for _, one in loaded:
        if not isinstance(one, InputError) and math.prod(one[0].geometry.picture_size) > LARGE:
            return False
    return True


Seen = tuple[Views, Measures, float | None]
Loaded = Seen | InputError
Load = Callable[[Source], tuple[Source, Loaded]]
Judged = tuple[Source, Prediction | InputError]


@dataclass(frozen=True)
class Prepared:
    """A picture as the network sees it."""

    source: Source = field(repr=False)
    seen: Seen = field(repr=False)


__all__ = ["Predictor", "load", "read_manifest"]
