"""On a GPU: the CPU's answers, no wait in a pick or a step, no memory that grows."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from flawscope import load
from flawscope.fitting.fitting import fit
from flawscope.methods.patchcore import coreset
from flawscope.methods.training.trainer import Trainer

pytestmark = pytest.mark.cuda
SAME = 1e-4  # relative


@contextmanager
def waits():
    """What made the process wait for the GPU."""
    found = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield found
        found += [str(one.message) for one in seen if "synchronizing" in str(one.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="session")
def prnet_settings(small_backbone):
    own = {"size": "64", "width": 0.25, "batch": 2, "training": "fp32"}
    return {**own, **small_backbone}


@pytest.fixture(scope="session")
def prnet_model(drawn, prnet_settings, shared):
    def fill(folder):
        found = fit(drawn, method="prnet", device="cpu", steps=3, **prnet_settings)
        found.save(folder / "plate.safetensors")

    return shared("gpu-prnet", fill) / "plate.safetensors"


@pytest.fixture(params=["model_path", "efficientad_path", "prnet_model"])
def path(request):
    """A model of each method."""
    return request.getfixturevalue(request.param)


def images_for(predictor, count):
    rng = np.random.default_rng(3)
    return rng.random((count, 3, *predictor.session.size), dtype=np.float32)


def check_same(ours, theirs, count):
    images = images_for(theirs, count)
    for found, wanted in zip(ours.session.run(images), theirs.session.run(images), strict=True):
        assert np.abs(found - wanted).max() <= SAME * np.abs(wanted).max()


@pytest.mark.parametrize("count", [1, 5])
def test_scores_and_maps_are_the_cpus(path, count):
    check_same(load(path, device="cuda"), load(path, device="cpu"), count)


def test_a_graph_of_all_kernels_gives_the_same(efficientad_path):
    predictor = load(efficientad_path, device="cuda")
    model, images = predictor.session.model, torch.from_numpy(images_for(predictor, 2)).cuda()
    with torch.inference_mode():
        wanted = model(images)[1].clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            drawn = model(images)[1]
        graph.replay()
        torch.testing.assert_close(drawn, wanted, rtol=SAME, atol=SAME * float(wanted.abs().max()))


def test_memory_does_not_grow(path):
    predictor = load(path, device="cuda")
    images = images_for(predictor, 4)
    held = []
    for _ in range(6):
        predictor.session.run(images)
        held.append(torch.cuda.memory_allocated())
    assert held[-1] == held[1]


def test_onnx_runtime_gives_the_same(onnx_path, model_path):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA: pip install onnxruntime-gpu")
    check_same(load(onnx_path, device="cuda"), load(model_path, device="cpu"), 3)


def test_whole_numbers_give_the_cpus_picks():
    """fp32 is exact there."""
    points = torch.randint(0, 9, (6000, 24), generator=torch.Generator().manual_seed(1)).float()
    groups = torch.arange(6000) // 60
    wanted = coreset.select(points, 700, groups=groups)
    found = coreset.select(points.cuda(), 700, groups=groups.cuda())
    assert torch.equal(found.indices.cpu(), wanted.indices)
    assert wanted.leave_out is not None
    assert found.leave_out is not None
    torch.testing.assert_close(found.distances.cpu(), wanted.distances)
    torch.testing.assert_close(found.leave_out.cpu(), wanted.leave_out)


def test_a_pick_does_not_wait():
    points = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(2)).cuda()
    coreset.select(points, 100)
    with waits() as found:
        coreset.select(points, 4000)
    assert 0 < len(found) < 4000 / 8


def test_a_fit_is_the_cpus(drawn, model_path):
    ours, theirs = fit(drawn, size=64, device="cuda", seed=0), load(model_path, device="cpu")
    facts = [one.manifest.facts["covering_radius"] for one in (ours, theirs)]
    assert facts[0] == pytest.approx(facts[1], rel=1e-3)
    images = images_for(theirs, 3)
    found, wanted = ours.session.run(images)[0], theirs.session.run(images)[0]
    assert np.abs(found - wanted).max() <= 1e-2 * np.abs(wanted).max()  # rounding may pick another element


@pytest.fixture(params=["efficientad", "prnet"])
def learner(request, quick_settings, prnet_settings):
    known = {"efficientad": quick_settings, "prnet": prnet_settings}
    return request.param, {k: v for k, v in known[request.param].items() if k != "steps"}


def test_a_step_does_not_wait(learner, drawn, monkeypatch):
    method, settings = learner
    per_step = []
    learn = Trainer._optimise

    def watched(self, *given):
        with waits() as found:
            losses = learn(self, *given)
        per_step.append(found)
        return losses

    monkeypatch.setattr(Trainer, "_optimise", watched)
    fit(drawn, method=method, device="cuda", steps=6, **settings)
    assert len(per_step) == 6
    assert per_step[2:] == [[]] * 4  # the first ones choose algorithms
