"""What only a GPU runs, without one: on a device whose tensors have no values. What asks for one fails there,
and a GPU would be waited for; so do sums, choices and joins of tensors on two devices (not all products)."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flawscope import load
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.patchcore import coreset
from flawscope.methods.task import Task
from flawscope.methods.training import state
from flawscope.methods.training.efficientad.model import create as create_efficientad
from flawscope.methods.training.efficientad.trainer import Trainer as EfficientAdTrainer
from flawscope.methods.training.efficientad.training_pictures import TeacherOutputs, natural_pictures
from flawscope.methods.training.prnet.fit import find_prototypes
from flawscope.methods.training.prnet.model import create as create_prnet
from flawscope.methods.training.prnet.trainer import Trainer as PrnTrainer
from flawscope.methods.training.prnet.training_pictures import ScaleFeatureCache, TrainingPictures
from flawscope.methods.training.state import restore_adam
from flawscope.methods.training.trainer import Trainer
from flawscope.progress import ignore_progress

GPU = torch.device("meta")


@pytest.fixture
def moved(monkeypatch):
    """moved(module): a copy on the other device, which has no precisions of its own."""
    nothing = lambda *given, **more: contextlib.nullcontext()  # noqa: E731
    monkeypatch.setattr("flawscope.methods.detector.autocast", nothing)
    monkeypatch.setattr("flawscope.methods.training.prnet.model.autocast", nothing)
    monkeypatch.setattr(Trainer, "autocast", nothing)
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **more: nothing() if kind == "meta" else autocast(kind, **more)
    )
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": kind != "meta" and enabled(kind))
    return lambda module: copy.deepcopy(module).to(GPU)


def test_the_stand_in_notices_both_faults():
    there = torch.empty(3, 3, device=GPU)
    with pytest.raises(RuntimeError, match="not on the expected device"):
        there + torch.ones(3, 3)
    with pytest.raises((RuntimeError, NotImplementedError)):
        there[there > 0]
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(there.sum() > 0)


@pytest.fixture(scope="session")
def prnet_config(small_backbone):
    settings = {"size": "64", "width": 0.25, "batch": 2, "steps": 3, "training": "fp32", "noise": 0.0}
    return registry.method("prnet").configure("default", {**settings, **small_backbone})


@pytest.fixture(params=["patchcore", "efficientad", "prnet"])
def detector(request):
    if request.param == "prnet":
        return create_prnet(request.getfixturevalue("prnet_config"))[0]
    name = {"patchcore": "model_path", "efficientad": "efficientad_path"}[request.param]
    return load(request.getfixturevalue(name), device="cpu").session.model


def test_a_forward_stays_on_its_device_and_asks_for_nothing(detector, moved):
    model = moved(detector)
    with torch.inference_mode():
        scores, maps = model(torch.empty(2, 3, *model.size, device=GPU))
    assert scores.device == maps.device == GPU
    assert scores.shape == (2,)
    assert maps.shape == (2, *model.size)


@pytest.fixture(scope="module")
def shots():
    """Two pictures [3, 256, 256] in 0..1, 8 bits deep."""
    drawn = torch.randint(0, 256, (2, 3, 256, 256), generator=torch.Generator().manual_seed(4))
    return [one.float() / 255 for one in drawn]


def efficientad_trainer(kind, settings, shots):
    roi = None
    if kind == "region":
        roi = torch.zeros(256, 256, dtype=torch.bool)
        roi[60:200, 40:220] = True
    more = {"defects": 2, "natural": "none"} if kind == "defects" else {"natural": "generated"}
    config = registry.method("efficientad").configure("default", {**settings, **more})
    model, _ = create_efficientad(config, roi)
    images = GoodPictures(shots.__getitem__, len(shots), 2**30)
    taught = TeacherOutputs(model, images, images.read(ignore_progress), 2**30)
    taught.measure(ignore_progress)
    task = Task(images.load, range(len(shots)), rate=0.05, step=ignore_progress)
    return EfficientAdTrainer(model, images, taught, natural_pictures(config.natural), task)


def test_a_step_of_efficientad(quick_settings, shots, moved):
    trainer = efficientad_trainer("plain", quick_settings, shots)
    batch = trainer.batch(0)
    trainer.model, trainer.device = moved(trainer.model), GPU
    networks = [trainer.model.student, trainer.model.autoencoder]
    losses = trainer.losses(networks, batch, 0)
    torch.stack(losses).sum().backward()
    assert all(one.device == GPU and one.shape == () for one in losses)
    assert networks[1].last[-1].weight.grad.device == GPU


@pytest.mark.parametrize("kind", ["region", "defects"])
def test_a_gpu_gets_the_numbers_of_places_and_learns_the_same(kind, quick_settings, shots, monkeypatch):
    """Computed on the CPU in the way of a GPU."""
    trainer = efficientad_trainer(kind, quick_settings, shots)
    batch = trainer.batch(0)
    assert (batch.valid_mask is not None) == (kind == "region")
    assert (batch.defect_outputs is not None) == (kind == "defects")
    wanted = trainer.losses(trainer.networks, batch, 0)
    torch.stack(wanted).sum().backward()
    of_cpu = [v.grad.clone() for v in trainer.networks[0].parameters() if v.grad is not None]
    trainer.networks[0].zero_grad()
    asked = []
    monkeypatch.setattr(state, "upload", lambda values, device: asked.append(device) or values)
    monkeypatch.setattr(trainer, "autocast", contextlib.nullcontext)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    trainer.device = torch.device("cuda")
    found = trainer.losses(trainer.networks, batch, 0)
    assert isinstance(trainer._cell_index(torch.ones(1, 2, 2, dtype=torch.bool)), tuple)
    torch.stack(found).sum().backward()
    assert [float(v.detach()) for v in found] == [float(v.detach()) for v in wanted]
    of_gpu = [v.grad for v in trainer.networks[0].parameters() if v.grad is not None]
    assert of_gpu
    assert all(torch.equal(a, b) for a, b in zip(of_gpu, of_cpu, strict=True))
    assert set(asked) == {torch.device("cuda")}


def test_a_step_of_prn(prnet_config, moved):
    shots = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    images = GoodPictures(shots.__getitem__, len(shots), 2**30)
    pictures = TrainingPictures(prnet_config, images, images.read(ignore_progress), [])
    model, _ = create_prnet(prnet_config)
    features = ScaleFeatureCache(model, images, pictures.learnt, 2**30)
    features.measure(ignore_progress)
    clusters = find_prototypes(prnet_config, features, ignore_progress)
    for scale, one in zip(model.scales, clusters, strict=True):
        scale.prototypes = one.prototypes
    trainer = PrnTrainer(
        model, pictures, features, clusters, Task(images.load, range(4), rate=0.05, step=ignore_progress)
    )
    batch = trainer.batch(0)
    trainer.model, trainer.device = moved(trainer.model), GPU
    (loss,) = trainer.losses([trainer.model.network], batch, 0)
    loss.backward()
    assert loss.device == GPU


@pytest.mark.parametrize("fused", [True, False])
def test_a_restored_count_of_steps_lies_where_adam_wants_it(fused):
    """In one kernel on the device of the weights, else on the CPU, where it is read without waiting."""
    layer = nn.Linear(2, 2, bias=False, device="meta")
    optimiser = torch.optim.Adam(layer.parameters())
    optimiser.param_groups[0]["fused"] = fused
    kept = {f"{key}.weight": torch.ones(2, 2) for key in ("net", "exp_avg", "exp_avg_sq")}
    restore_adam(layer.named_parameters(), optimiser, {**kept, "step.weight": torch.tensor(3.0)})
    state = optimiser.state[layer.weight]
    assert state["step"].device.type == ("meta" if fused else "cpu")
    assert state["exp_avg"].device.type == "meta"


class Asked(TorchDispatchMode):
    """Counts what a GPU would be waited for."""

    WAITING = ("aten::item", "aten::is_nonzero", "aten::nonzero", "aten::_local_scalar_dense")
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() in self.WAITING
        return func(*args, **(kwargs or {}))


def test_picks_are_made_without_asking():
    points = torch.randn(9000, 16, generator=torch.Generator().manual_seed(5))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # all picks are made in this thread
    try:
        with Asked() as asked:
            coreset.select(points, 2000)
    finally:
        torch.set_num_threads(threads)
    assert 2000 / coreset.STRIDE / 4 < asked.count < 2000 / 8


def test_onnx_runtime_that_cannot_load_cuda_says_so(onnx_path, monkeypatch):
    """It would go on with the CPU, and say nothing."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA: nothing to install")
    monkeypatch.setattr(
        "flawscope.runtime.onnxruntime.onnxruntime.get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(InputError, match="cannot load CUDA: use --device cpu"),
    ):
        load(onnx_path, device="cuda")
