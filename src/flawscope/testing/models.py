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
    """Check that a model returns finite float32 scores `[B]` and maps `[B, H, W]` of images `[B, 3, H, W]`.

    `forward` is `score` of `embed`. The model is in eval mode; it changes neither the images nor itself.
    """
    import torch

    detector = case.fitted().detector
    images = torch.from_numpy(preprocess_pictures(case.fitted(), case.probes[::2]))
    state_before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    images_before = images.clone()
    with torch.inference_mode():
        scores, maps = detector(images)
        scores_in_steps, maps_in_steps = detector.score(detector.embed(images), detector.inside(images))
    must(not any(module.training for module in detector.modules()), "not in eval mode")
    size = detector.config.network_size
    must(detector.size == size == tuple(detector.roi.shape), "size, region of interest and settings differ")
    must(tuple(scores.shape) == (len(images),), f"scores of shape {tuple(scores.shape)}")
    must(tuple(maps.shape) == (len(images), *size), f"maps of shape {tuple(maps.shape)}")
    must(scores.dtype == maps.dtype == torch.float32, "scores and maps are float32")
    must(bool(scores.isfinite().all() and maps.isfinite().all()), "scores and maps are finite")
    must_be_close(scores_in_steps, scores, "`forward` is not `score` of `embed`")
    must_be_close(maps_in_steps, maps, "`forward` is not `score` of `embed`")
    must(torch.equal(images, images_before), "the images were changed")
    for name, tensor in detector.state_dict().items():
        must(torch.equal(tensor, state_before[name]), "the model was changed")
    probe_scores, _ = case.outputs()
    must(len(set(probe_scores.tolist())) > 1, "all pictures have the same score")


def any_batch(case: Case) -> None:
    """A picture has the same score and map in any batch."""
    scores, maps = case.outputs()
    images = preprocess_pictures(case.fitted(), case.probes)
    for batch in (3, 8):
        indices = np.arange(batch) % len(images)
        batch_scores, batch_maps = case.fitted().session.run(images[indices])
        must_be_close(batch_scores, scores[indices], f"scores in a batch of {batch}")
        must_be_close(batch_maps, maps[indices], f"maps in a batch of {batch}")


def saved_and_read(case: Case) -> None:
    """A model that was saved and read gives the same scores and maps, bit for bit.

    For its stored sample picture, it gives the stored score.
    """
    for variant in ("padded", "region", "plain"):
        model = case.fitted(variant)
        saved_scores, saved_maps = case.outputs(variant)
        scores, maps = predict_scores_and_maps(model, case.prediction_pictures(variant)[:2])
        must(np.array_equal(scores, saved_scores[:2]), f"{variant}: other scores")
        must(np.array_equal(maps, saved_maps[:2]), f"{variant}: other maps")
        must(model.manifest.method == case.method.name, "another method")
        for name in case.method.config.PATHS:
            must("/" not in (model.manifest.config[name] or ""), "a path")
    plain_model = case.fitted("plain")
    sample = plain_model.artefact.tensors["samples"][:1].astype(np.float32) / np.float32(255)
    sample_scores, _ = plain_model.session.run(sample)
    must_be_close(sample_scores, plain_model.manifest.samples[0]["score"], "the sample picture")


def damaged_files_are_refused(case: Case) -> None:
    """A model file whose tensors are missing or contradict the settings is an InputError of one line."""
    artefact = case.fitted().artefact
    session_class: Any = type(case.fitted().session)
    state_names = case.fitted().detector.state_dict()
    learnt_names = [name for name in state_names if not name.startswith("backbone.")]
    damaged_tensors = []
    # a region of interest of another size, and one of another type
    for roi in (np.ones((3, 3), np.bool_), artefact.tensors["roi"].astype(np.float32)):
        damaged_tensors.append(artefact.tensors | {"roi": roi})
    for missing in {learnt_names[0], learnt_names[-1]}:
        damaged_tensors.append({name: array for name, array in artefact.tensors.items() if name != missing})
    for tensors in damaged_tensors:
        damaged = replace(artefact, tensors=tensors)
        must_refuse(lambda damaged=damaged: session_class.open(damaged, "cpu"), "a damaged model")  # type: ignore[misc]


# ---- what counts


def _must_be_lowest_outside(maps: Floats, inside: NDArray[np.bool_]) -> None:
    """Raise an AssertionError if a map has a value outside that exceeds one inside.

    Args:
        maps: Maps [N, H, W].
        inside: [N, H, W], pixels that count.
    """
    for values, is_inside in zip(maps, inside, strict=True):
        must(
            values[~is_inside].max() <= values[is_inside].min(),
            "a value outside is above the lowest inside",
        )


def region_of_interest(case: Case) -> None:
    """Pixels outside the region of interest have the lowest map value, and decide no score.

    If the region excludes the most anomalous pixels, the score is lower than without a region.
    """
    import torch

    model = case.fitted("region")
    roi = model.artefact.tensors["roi"]
    is_left_column = np.arange(roi.shape[1]) < roi.shape[1] // 2
    must(np.array_equal(roi, np.broadcast_to(is_left_column, roi.shape)), "another region than was given")
    _, maps = case.outputs("region")
    _must_be_lowest_outside(maps, np.broadcast_to(roi, maps.shape))
    plain = case.fitted()
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in plain.artefact.tensors.items()}
    images = torch.from_numpy(preprocess_pictures(plain, [case.defect]))
    with torch.inference_mode():
        score, plain_maps = plain.detector(images)
        for axis in (0, 1):
            half = _half_without_maximum(plain_maps[0], axis)
            detector = case.method.rebuild(plain.manifest.config, {**tensors, "roi": half})
            half_score, half_maps = detector(images)
            must(
                float(half_score) < float(score),
                f"outside the region counts: {float(half_score)}, {float(score)}",
            )
            _must_be_lowest_outside(half_maps.numpy(), half.numpy()[None])


def _half_without_maximum(values: Tensor, axis: int) -> Tensor:
    """Return the mask [H, W] of that half of a map which does not contain its maximum.

    Args:
        values: The map [H, W].
        axis: Axis that is halved.
    """
    import torch

    maximum_indices = divmod(int(values.argmax()), values.shape[1])  # (row, column)
    middle = values.shape[axis] // 2
    indices = torch.arange(values.shape[axis])
    is_in_half = (indices >= middle) if maximum_indices[axis] < middle else (indices < middle)
    along_axis = is_in_half[:, None] if axis == 0 else is_in_half[None]
    return along_axis.expand(values.shape).clone()


def padding(case: Case) -> None:
    """Padding has the lowest map value, and does not affect the score.

    The values that mark padding in images are not taken for brightness.
    """
    import torch

    model = case.fitted("padded")
    detector = model.detector
    images = torch.from_numpy(preprocess_pictures(model, case.prediction_pictures("padded")[:2]))
    with torch.inference_mode():
        inside = detector.inside(images)
        must(inside is not None and 0 < float(inside.float().mean()) < 1, "`inside` does not know padding")
        features = detector.embed(images)
        # let `filled` change nothing, so that `embed` gets the values that mark padding
        detector.filled = lambda images: images  # type: ignore[method-assign]
        features_of_marks = detector.embed(images)
        del detector.filled  # restores the method of the class
        must(not torch.equal(features, features_of_marks), "`embed` takes marks for pixels")
        assert inside is not None
        scores, maps = detector.score(features, inside)
        must(torch.equal(inside, (images[:, 0] >= 0) & detector.roi), "`inside` is not the picture")
        _must_be_lowest_outside(maps.numpy(), inside.numpy())
        halves = torch.stack([_half_without_maximum(values, axis=1) for values in maps]) & inside
        half_scores, half_maps = detector.score(features, halves)
        are_lower = bool((half_scores <= scores).all() and (half_scores < scores).any())
        must(are_lower, "what is not `inside` decides scores")
        _must_be_lowest_outside(half_maps.numpy(), halves.numpy())


def many_threads_predict(case: Case) -> None:
    """A predictor can be used from many threads at once, and does not change torch's thread count."""
    import torch

    model = case.fitted()
    expected_scores, expected_maps = case.outputs()
    with torch_threads(2), ThreadPoolExecutor(4) as pool:
        tasks = [
            pool.submit(predict_scores_and_maps, model, case.probes[:2], batch) for batch in (1, 2, 1, 2)
        ]
        for task in tasks:
            scores, maps = task.result()
            must_be_close(scores, expected_scores[:2], "scores")
            must_be_close(maps, expected_maps[:2], "maps")
        with ThreadPoolExecutor(1) as new_thread:
            count = new_thread.submit(torch.get_num_threads).result()
            must(count == 2, "a new thread gets another number")


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
    """Check that the exported model of the variant "padded" gives the fitted model's scores and maps.

    Args:
        case: The case.
        engine: Engine that runs the exported model.
    """
    variant = "padded"
    pictures = case.prediction_pictures(variant)
    exported = load(case.exported_path(variant), engine=engine, device="cpu")
    assert isinstance(exported, Predictor)
    for key, facts in exported.manifest.facts.items():
        if key.startswith("certificate"):  # its `decisions` is the number of decisions that differ
            must(not facts["decisions"], "an engine decided otherwise than the model")
    must(exported.calibration.scores == case.fitted(variant).calibration.scores, "another calibration")
    expected_scores, expected_maps = case.outputs(variant)
    for batch in (1, 3):
        scores, maps = predict_scores_and_maps(exported, pictures, batch)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(maps, expected_maps, rtol=1e-3, atol=1e-3)


def exports() -> list[Callable[[Case], None]]:
    """Return the checks of exports for the engines that are installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        return []
    checks: list[Callable[[Case], None]] = [exports_onnx]
    if importlib.util.find_spec("openvino"):
        checks.append(exports_openvino)
    return checks


def held_out_is_not_learnt(case: Case) -> None:
    """The content of held-out pictures changes only the tensors that a method declares as `calibrated`."""
    if not case.method.holds_out:
        return
    model = case.fitted()
    learnt_hashes = {row.hash for row in model.manifest.pictures if row.role in ("train", "duplicate")}

    def change_held_out(source: PictureSource) -> PictureSource:
        """Return a picture with other content if it was held out; any other source as it is."""
        if isinstance(source, bytes):
            return source
        picture = decode(source)
        digest = pixel_hash(picture)
        if digest in learnt_hashes:
            return source
        # each is moved by another distance, because they might be near-duplicates otherwise
        moved: Array = np.roll(picture.max() - picture, int(digest, 16) % picture.size)
        return moved

    pictures = [change_held_out(source) for source in case.training_pictures("plain")]
    _must_learn_same(case, model, case.fit(pictures, samples=0), "other pictures held out")


def outside_is_not_learnt(case: Case) -> None:
    """Pixels outside of the region of interest change neither the learnt tensors nor a score.

    To pass, give networks what `Detector.filled` returns, and learn from the cells that `Detector.inside`
    marks. The region is used: without it, other tensors are learnt.
    """
    options: Json = {"group": None, "samples": 0}
    model = case.fit(case.good_pictures, "region", **options)
    filled: list[PictureSource] = [_network_view(model, source) for source in case.good_pictures]
    _must_learn_same(case, model, case.fit(filled, "region", **options), "other pixels outside of the region")
    changed = [np.array(decode(source)) for source in case.probes]
    for picture in changed:
        # The region ends at 4/8 of the width. Pixels beside this border stay as they are, because scaling
        # mixes them with pixels of the region
        outside = picture[:, picture.shape[1] * 5 // 8 :]
        outside[:] = outside.max() - outside
    scores, maps = predict_scores_and_maps(model, case.probes)
    changed_scores, changed_maps = predict_scores_and_maps(model, changed)
    is_same = np.array_equal(scores, changed_scores) and np.array_equal(maps, changed_maps)
    must(is_same, "pixels outside of the region change the answer")
    without_region = case.fit(filled, **options)
    _must_learn_other(case, model, without_region, "as much is learnt from outside of the region")


def padding_is_not_learnt(case: Case) -> None:
    """Padding is not learnt: the same pixels, as a picture without padding, give other tensors.

    To pass, learn from the cells that `Detector.inside` marks.
    """
    model = case.fitted("padded")
    strips = case.training_pictures("padded")
    square_pictures: list[PictureSource] = [_network_view(model, source) for source in strips]
    without_padding = case.fit(square_pictures, "padded", samples=0)
    _must_learn_other(case, model, without_padding, "as much is learnt from padding")


def _network_view(model: Predictor, source: PictureSource) -> NDArray[np.float32]:
    """Return a picture [H, W, 3] as the network gets it: `Detector.filled` has filled padding and outside."""
    import torch

    image = model.detector.filled(torch.from_numpy(preprocess_pictures(model, [source])))
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def _learnt_tensors(case: Case, model: Predictor) -> dict[str, bytes]:
    """Return the tensors that a fit learns, as bytes, without those that depend on held-out pictures."""
    not_learnt_names = {"roi", "samples", "sample_maps", *model.detector.calibrated}
    learnt = {}
    for name, array in model.artefact.tensors.items():
        if name not in not_learnt_names:
            learnt[name] = array.tobytes()
    return learnt


def _must_learn_same(case: Case, first: Predictor, other: Predictor, text: str) -> None:
    """Check that two models learnt the same; `text` names what differs between their pictures."""
    first_tensors = _learnt_tensors(case, first)
    other_tensors = _learnt_tensors(case, other)
    changed = []
    for name in sorted(first_tensors.keys() | other_tensors.keys()):
        if first_tensors.get(name) != other_tensors.get(name):
            changed.append(name)
    must(not changed, f"{text} change what is learnt: {', '.join(changed)}")


def _must_learn_other(case: Case, first: Predictor, other: Predictor, text: str) -> None:
    """Check that two models did not learn the same; `text` is the error."""
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
