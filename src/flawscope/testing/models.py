"""Checks of a fitted model: pictures that must not count, its answers, its file, its exports."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.decoding import PictureSource, decode, pixel_hash
from flawscope.predictor import Predictor
from flawscope.predictor.router import load
from flawscope.testing.case import (
    Case,
    Floats,
    must,
    must_be_close,
    must_refuse,
    predict_scores_and_maps,
    preprocess_pictures,
    torch_threads,
)
from flawscope.types import Array, Json

if TYPE_CHECKING:
    from torch import Tensor


def answers_have_their_form(case: Case) -> None:
    """Images `[B, 3, H, W]` become scores `[B]` and maps `[B, H, W]`, finite float32.

    `forward` is `score` of `embed`, in eval mode, and changes neither the images nor the model.
    """
    import torch

    detector = case.fitted().detector
    images = torch.from_numpy(preprocess_pictures(case.fitted(), case.probes[::2]))
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    given = images.clone()
    with torch.inference_mode():
        scores, maps = detector(images)
        again = detector.score(detector.embed(images), detector.inside(images))
    must(not any(module.training for module in detector.modules()), "not in eval mode")
    size = detector.config.network_size
    must(detector.size == size == tuple(detector.roi.shape), "size, region of interest and settings differ")
    must(tuple(scores.shape) == (len(images),), f"scores of shape {tuple(scores.shape)}")
    must(tuple(maps.shape) == (len(images), *size), f"maps of shape {tuple(maps.shape)}")
    must(scores.dtype == maps.dtype == torch.float32, "scores and maps are float32")
    must(bool(scores.isfinite().all() and maps.isfinite().all()), "scores and maps are finite")
    must_be_close(again[0], scores, "`forward` is not `score` of `embed`")
    must_be_close(again[1], maps, "`forward` is not `score` of `embed`")
    must(torch.equal(images, given), "the images were changed")
    must(all(torch.equal(v, before[k]) for k, v in detector.state_dict().items()), "the model was changed")
    must(len(set(case.outputs()[0].tolist())) > 1, "all pictures have the same score")


def any_batch(case: Case) -> None:
    """A picture has the same score and map in any batch."""
    scores, maps = case.outputs()
    images = preprocess_pictures(case.fitted(), case.probes)
    for batch in (3, 8):
        chosen = np.arange(batch) % len(images)
        found = case.fitted().session.run(images[chosen])
        must_be_close(found[0], scores[chosen], f"scores in a batch of {batch}")
        must_be_close(found[1], maps[chosen], f"maps in a batch of {batch}")


def saved_and_read(case: Case) -> None:
    """A model that was saved and read gives the same answers, bit for bit, and passes its self-test."""
    for variant in ("padded", "region", "plain"):
        model, (scores, maps) = case.fitted(variant), case.outputs(variant)
        found = predict_scores_and_maps(model, case.prediction_pictures(variant)[:2])
        must(np.array_equal(found[0], scores[:2]), f"{variant}: other scores")
        must(np.array_equal(found[1], maps[:2]), f"{variant}: other maps")
        must(model.manifest.method == case.method.name, "another method")
        config = model.manifest.config
        must(all(not config[name] or "/" not in config[name] for name in case.method.config.PATHS), "a path")
    sample = model.artefact.tensors["samples"][:1].astype(np.float32) / np.float32(255)
    must_be_close(model.session.run(sample)[0], model.manifest.samples[0]["score"], "the sample picture")


def damaged_files_are_refused(case: Case) -> None:
    """Tensors that are missing, or that contradict the settings, are an InputError of one line."""
    artefact = case.fitted().artefact
    session: Any = type(case.fitted().session)
    trained_keys = [k for k in case.fitted().detector.state_dict() if not k.startswith("backbone.")]
    damaged = []
    for roi in (np.ones((3, 3), np.bool_), artefact.tensors["roi"].astype(np.float32)):
        damaged.append(artefact.tensors | {"roi": roi})
    for missing in {trained_keys[0], trained_keys[-1]}:
        damaged.append({name: tensor for name, tensor in artefact.tensors.items() if name != missing})
    for values in damaged:
        other = replace(artefact, tensors=values)
        must_refuse(lambda other=other: session.open(other, "cpu"), "a damaged model")  # type: ignore[misc]


# ---- what counts


def _must_be_lowest_outside(maps: Floats, inside: NDArray[np.bool_]) -> None:
    """Raise an AssertionError where a map value outside exceeds one inside; both arrays are [N, H, W]."""
    for drawn, counts in zip(maps, inside, strict=True):
        must(drawn[~counts].max() <= drawn[counts].min(), "a value outside is above the lowest inside")


def region_of_interest(case: Case) -> None:
    """Pixels outside the region of interest have the lowest map value, and decide no score.

    Where the region excludes the most anomalous pixels, the score is lower.
    """
    import torch

    model = case.fitted("region")
    roi = model.artefact.tensors["roi"]
    left = np.arange(roi.shape[1]) < roi.shape[1] // 2
    must(np.array_equal(roi, np.broadcast_to(left, roi.shape)), "another region than was given")
    maps = case.outputs("region")[1]
    _must_be_lowest_outside(maps, np.broadcast_to(roi, maps.shape))
    plain = case.fitted()
    images = torch.from_numpy(preprocess_pictures(plain, [case.defect]))
    with torch.inference_mode():
        score, drawn = plain.detector(images)
        for side in (0, 1):
            elsewhere = _half_without_maximum(drawn[0], side)
            kept = {k: torch.from_numpy(np.asarray(v)) for k, v in plain.artefact.tensors.items()}
            other = case.method.rebuild(plain.manifest.config, {**kept, "roi": elsewhere})
            lower, within = other(images)
            must(float(lower) < float(score), f"outside the region counts: {float(lower)}, {float(score)}")
            _must_be_lowest_outside(within.numpy(), elsewhere.numpy()[None])


def _half_without_maximum(drawn: Tensor, side: int) -> Tensor:
    """Return the mask [H, W] of the half, along axis `side`, without the maximum of the map [H, W]."""
    import torch

    top = divmod(int(drawn.argmax()), drawn.shape[1])[side]
    place = torch.arange(drawn.shape[side])
    half = drawn.shape[side] // 2
    chosen = (place >= half) if top < half else (place < half)
    return (chosen[:, None] if side == 0 else chosen[None]).expand(drawn.shape).clone()


def padding(case: Case) -> None:
    """Padding counts nowhere: its map value is the lowest, and it decides no score.

    The marks of padding are not taken for brightness.
    """
    import torch

    model = case.fitted("padded")
    detector = model.detector
    images = torch.from_numpy(preprocess_pictures(model, case.prediction_pictures("padded")[:2]))
    with torch.inference_mode():
        inside = detector.inside(images)
        must(inside is not None and 0 < float(inside.float().mean()) < 1, "`inside` does not know padding")
        features = detector.embed(images)
        detector.filled = lambda images: images  # type: ignore[method-assign]
        marked = detector.embed(images)
        del detector.filled  # the class has its own
        must(not torch.equal(features, marked), "`embed` takes marks for pixels")
        assert inside is not None
        scores, maps = detector.score(features, inside)
        must(torch.equal(inside, (images[:, 0] >= 0) & detector.roi), "`inside` is not the picture")
        _must_be_lowest_outside(maps.numpy(), inside.numpy())
        half = torch.stack([_half_without_maximum(drawn, 1) for drawn in maps]) & inside
        lower, drawn = detector.score(features, half)
        must(bool((lower <= scores).all() and (lower < scores).any()), "what is not `inside` decides scores")
        _must_be_lowest_outside(drawn.numpy(), half.numpy())


def many_threads_predict(case: Case) -> None:
    """A predictor can be used from many threads at once, and leaves torch's number of threads alone."""
    import torch

    model, (scores, maps) = case.fitted(), case.outputs()
    with torch_threads(2), ThreadPoolExecutor(4) as pool:
        tasks = [
            pool.submit(predict_scores_and_maps, model, case.probes[:2], batch) for batch in (1, 2, 1, 2)
        ]
        for task in tasks:
            must_be_close(task.result()[0], scores[:2], "scores")
            must_be_close(task.result()[1], maps[:2], "maps")
        with ThreadPoolExecutor(1) as fresh:
            must(fresh.submit(torch.get_num_threads).result() == 2, "a new thread gets another number")


def exports_onnx(case: Case) -> None:
    """An exported model passes its certificate, can be opened, and gives the same answers in any batch.

    This holds for pictures with padding and without.
    """
    _check_export(case, "onnxruntime")


def exports_openvino(case: Case) -> None:
    """A model exported for OpenVINO passes its certificate, and gives the same answers in any batch.

    This holds for pictures with padding and without.
    """
    _check_export(case, "openvino")


def _check_export(case: Case, engine: str) -> None:
    """Check that an export on `engine` gives the model's answers, on strips: these are padded."""
    variant = "padded"
    trained = case.fitted(variant)
    shown = case.prediction_pictures(variant)
    model = load(case.exported_path(variant), engine=engine, device="cpu")
    assert isinstance(model, Predictor)
    certificates = [
        certificate for key, certificate in model.manifest.facts.items() if key.startswith("certificate")
    ]
    must(
        not any(certificate["decisions"] for certificate in certificates),
        "an engine decided otherwise than the model",
    )
    must(model.calibration.scores == trained.calibration.scores, "another calibration")
    scores, maps = case.outputs(variant)
    for batch in (1, 3):
        found = predict_scores_and_maps(model, shown, batch)
        np.testing.assert_allclose(found[0], scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1], maps, rtol=1e-3, atol=1e-3)


def exports() -> list[Callable[[Case], None]]:
    """Return the checks of exports for the engines that are installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        return []
    openvino = [exports_openvino] if importlib.util.find_spec("openvino") else []
    return [exports_onnx, *openvino]


def held_out_is_not_learnt(case: Case) -> None:
    """The content of held-out pictures changes only the tensors that a method declares as `calibrated`."""
    if not case.method.holds_out:
        return
    model = case.fitted()
    learnt = {p.hash for p in model.manifest.pictures if p.role in ("train", "duplicate")}

    def changed(source: PictureSource) -> PictureSource:
        if isinstance(source, bytes):
            return source
        picture = decode(source)
        if (digest := pixel_hash(picture)) in learnt:
            return source
        # each is moved by another distance: they are no copies of each other
        moved: Array = np.roll(picture.max() - picture, int(digest, 16) % picture.size)
        return moved

    other = case.fit([changed(source) for source in case.training_pictures("plain")], samples=0)
    _must_learn_same(case, model, other, "other pictures held out")


def outside_is_not_learnt(case: Case) -> None:
    """Pixels outside of the region of interest change neither the learnt tensors nor a score.

    Give networks `Detector.filled`. The region itself counts: without it, other tensors are learnt. Learn
    from the cells that `Detector.inside` counts.
    """
    options: Json = {"group": None, "samples": 0}
    model = case.fit(case.good_pictures, "region", **options)
    hidden: list[PictureSource] = [_network_view(model, source) for source in case.good_pictures]
    _must_learn_same(case, model, case.fit(hidden, "region", **options), "other pixels outside of the region")
    shown = [np.array(decode(source)) for source in case.probes]
    for picture in shown:
        outside = picture[:, picture.shape[1] * 5 // 8 :]  # scaling takes a little from across the border
        outside[:] = outside.max() - outside
    same = zip(
        predict_scores_and_maps(model, shown), predict_scores_and_maps(model, case.probes), strict=True
    )
    must(all(np.array_equal(*pair) for pair in same), "pixels outside of the region change the answer")
    other = case.fit(hidden, **options)
    _must_learn_other(case, model, other, "as much is learnt from outside of the region")


def padding_is_not_learnt(case: Case) -> None:
    """Padding is not learnt: the same pixels as a picture without padding give other tensors.

    Learn from the cells that `Detector.inside` counts.
    """
    model = case.fitted("padded")
    whole: list[PictureSource] = [_network_view(model, source) for source in case.training_pictures("padded")]
    other = case.fit(whole, "padded", samples=0)
    _must_learn_other(case, model, other, "as much is learnt from padding")


def _network_view(model: Predictor, source: PictureSource) -> NDArray[np.float32]:
    """Return a picture [H, W, 3] at the network's size, padding and outside filled (`Detector.filled`)."""
    import torch

    image = model.detector.filled(torch.from_numpy(preprocess_pictures(model, [source])))
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def _learnt_tensors(case: Case, model: Predictor) -> dict[str, bytes]:
    """Return the tensors that a fit learns, as bytes, without those that depend on held-out pictures."""
    others = {"roi", "samples", "sample_maps", *model.detector.calibrated}
    return {k: v.tobytes() for k, v in model.artefact.tensors.items() if k not in others}


def _must_learn_same(case: Case, first: Predictor, other: Predictor, text: str) -> None:
    before = _learnt_tensors(case, first)
    after = _learnt_tensors(case, other)
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    must(not changed, f"{text} change what is learnt: {', '.join(changed)}")


def _must_learn_other(case: Case, first: Predictor, other: Predictor, text: str) -> None:
    must(_learnt_tensors(case, first) != _learnt_tensors(case, other), text)


CHECKS: Sequence[Callable[[Case], None]] = (
    held_out_is_not_learnt,
    outside_is_not_learnt,
    padding_is_not_learnt,
    answers_have_their_form,
    any_batch,
    saved_and_read,
    damaged_files_are_refused,
    region_of_interest,
    padding,
    many_threads_predict,
)
