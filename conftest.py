"""What many tests share: one generated data set and one small real model fitted on it."""

import copy
import faulthandler
import functools
import gc
import hashlib
import importlib
import os
import pickle
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

# Before numpy and torch are loaded. Pictures this small keep threads waiting for each other, and threads
# that wait must not spin, or tests crawl on a machine that is busy. Tests about threads set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from durations import apart, pytest_configure  # noqa: F401
from flawscope.pictures.near_duplicates import Compared
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_dataset, draw_picture
from small_network import SMALL_NETWORK

# Before OpenVINO is loaded: without this package it reports nothing of these runs to its makers
sys.modules.setdefault("openvino_telemetry", None)

# What `nohup` or a script starts in the background ignores SIGINT. Tests that interrupt need Python's own
# handler, and what they start inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MAX_TEST_SECONDS = 600  # for a test with its fixtures: more is a hang
SIZE = 64  # pixels a side that the small model sees
Run = Callable[..., tuple[int, str, str]]


def pytest_ignore_collect(collection_path, config):
    """Where only smokes of end-to-end tests are asked for, files without one are not even imported."""
    if "smoke" in config.option.markexpr and "/tests/whole/" in collection_path.as_posix():
        is_left_out = collection_path.suffix == ".py" and ".smoke" not in collection_path.read_text("utf-8")
        return is_left_out or None


def pytest_collection_modifyitems(items):
    """Tests below tests/whole/ are end-to-end tests. The processes begin with these, by turns of
    files: none that takes long is left for the end, when the other processes have nothing to do."""
    for item in items:
        if "/tests/whole/" in item.path.as_posix():
            item.add_marker("whole")
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    whole = [item for item in items if item.get_closest_marker("whole")]
    others = [item for item in items if not item.get_closest_marker("whole")]
    turns = {path: turn % count for turn, path in enumerate(dict.fromkeys(item.path for item in whole))}
    items.clear()
    for k in range(count):
        items += [item for item in whole if turns[item.path] == k]
        items += others[len(others) * k // count : len(others) * (k + 1) // count]


def pytest_xdist_auto_num_workers():
    """A worker more than there are cores: while a test waits for a service, another computes."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """End the process of a test that hangs, with the tracebacks of its threads: others go on in a new one."""
    faulthandler.dump_traceback_later(MAX_TEST_SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def pytest_collection_finish():
    """All that was imported and collected stays: looking through it for garbage again and again would take a
    tenth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_search_for_copies(request, monkeypatch):
    """Fits look for pictures of one part, `evaluate` for test pictures that are near-copies of training
    pictures, which is most of their time with so few: only tests marked `copies` do."""
    if "copies" not in request.keywords:
        nothing = Compared([], [])
        monkeypatch.setattr(
            "flawscope.evaluation.promise._near_duplicates_of", lambda train_looks, test_looks: set()
        )
        monkeypatch.setattr("flawscope.pictures.units.compare_pictures", lambda looks, bank: nothing)


@pytest.fixture(scope="session", autouse=True)
def computed_once(shared):
    """Comparing pictures with each other and learning to find their parts is most of the time of a fit with
    so few: of the same pictures it is done once in a run."""
    from flawscope.evaluation import next_steps
    from flawscope.pictures import units
    from flawscope.views import congealing, several_parts_learning

    def once(function):
        def recall(*given, **named):
            call = signature(function).bind(*given, **named)
            call.apply_defaults()
            key = pickle.dumps([value for value in call.args if not callable(value)])
            name = f"{function.__name__}-{hashlib.sha256(key).hexdigest():.24}"

            def fill(folder):
                (folder / "value").write_bytes(pickle.dumps(function(*call.args)))

            return pickle.loads((shared(name, fill) / "value").read_bytes())

        return recall

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (units, "compare_pictures"),
            (next_steps, "poses_needed"),
            (congealing, "learn_cross_validated"),
            (several_parts_learning, "learn_cross_validated"),
            (several_parts_learning, "_count_parts"),
        ):
            patch.setattr(module, name, once(getattr(module, name)))
        yield


_MADE = {}  # what takes long to make, of this process


@pytest.fixture(scope="session", autouse=True)
def copied_backbones():
    """Making a backbone takes longer than all else that a small model needs: models get copies of one."""
    if "flawscope.methods.patch_detector" not in sys.modules:
        yield
        return
    from flawscope.methods.features import backbone, weights

    def copied(key, make, given):
        if key not in _MADE:
            with apart("backbones"):
                _MADE[key] = make(*given)
        return copy.deepcopy(_MADE[key])

    def load(name, stages, size, file=None):
        return copied(
            (name, stages, size, weights.locate(name, file)),
            backbone.load_backbone,
            (name, stages, size, file),
        )

    def empty(*given):
        held = sum(tensor.numel() for key, tensor in given[3].items() if key.startswith("backbone."))
        return copied((*given[:3], held), backbone.empty_backbone, given)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("patch_detector", "training.prnet.model"):
            patch.setattr(f"flawscope.methods.{module}.load_backbone", load)
            patch.setattr(f"flawscope.methods.{module}.empty_backbone", empty)
        yield


@pytest.fixture
def run(capsys):
    """`run(*words)`: the exit code of `flawscope WORDS`, what is on stdout, and on stderr."""
    from flawscope.cli import main

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """`shared(name, fill)` is a folder that `fill(folder)` has filled, once for all processes of a run. Read
    only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the run's; each of its processes has one of its own within
    base /= "shared"
    base.mkdir(exist_ok=True)

    def once(name, fill):
        folder = base / name
        with FileLock(base / f"{name}.lock"):
            if not folder.exists():
                made = Path(tempfile.mkdtemp(dir=base))
                with apart(f"shared {name.partition('-')[0]}"):
                    fill(made)
                made.rename(folder)  # whole, or not there
        return folder

    return once


@pytest.fixture(scope="session")
def drawn(shared):
    """Root of a drawn data set with the category "plate". Read only: copy what a test changes."""
    return shared(
        "drawn",
        lambda root: draw_dataset(root, category="plate", train=12, good=4, bad_per_kind=1, size=96, seed=1),
    )


@pytest.fixture(scope="session")
def model_path(drawn, shared):
    """A small PatchCore model fitted on `drawn`. Read only."""
    from flawscope.fitting import simulated_defects
    from flawscope.fitting.fitting import fit

    def fill(folder):
        with pytest.MonkeyPatch.context() as patch:  # a busy machine checks it like any other
            patch.setattr(simulated_defects, "MIN_SECONDS", 20.0)
            fit(drawn, size=SIZE, device="cpu", seed=0).save(folder / "plate.safetensors")

    return shared("model", fill) / "plate.safetensors"


@pytest.fixture(scope="session", autouse=True)
def traced_once(shared):
    """Tracing a network takes seconds: each is traced once in a run."""
    if "flawscope.export.onnx_graph" not in sys.modules:
        yield
        return
    import onnx
    from torch.onnx._internal.exporter import _registration

    from flawscope.export import onnx_graph

    trace, read = onnx_graph.trace_module, _registration.ONNXRegistry.from_torchlib

    def operators(**asked):
        """The exporter's, whose sources it would read anew for every graph: a second of CPU time."""
        key = repr(asked)
        if key not in _MADE:
            with apart("exporter"):
                _MADE[key] = read(**asked)
        registry = copy.copy(_MADE[key])
        registry.functions = {name: list(found) for name, found in registry.functions.items()}
        return registry

    def once(module, given, results, *translations):
        shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in given.items()]
        model = getattr(module, "model", module)
        facts = type(module), type(model), vars(model).get("config"), shapes, results
        digest = hashlib.sha256(repr(facts).encode())
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())

        def fill(folder):
            onnx.save(trace(module, given, results, *translations), folder / "graph.onnx")

        return onnx.load(shared(f"trace-{digest.hexdigest():.24}", fill) / "graph.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(operators))
        patch.setattr(onnx_graph, "trace_module", once)
        yield


@pytest.fixture(scope="session")
def exported(model_path, drawn, shared):
    """The same model by precision, made when it is first asked for. Read only.

    Of reduced precision it is calibrated on all its training pictures and on the good test pictures.
    """

    @functools.cache
    def made(precision):
        from flawscope.datasets import list_pictures
        from flawscope.export.export import export

        def fill(folder):
            pictures = [] if precision == "fp32" else list_pictures(folders)
            export(model_path, folder / "plate.onnx", precision=precision, pictures=pictures)

        folders = [drawn / "plate/train/good", drawn / "plate/test/good"]
        return shared(f"onnx-{precision}", fill) / "plate.onnx"

    return made


@pytest.fixture
def bf16_in_name(monkeypatch):
    """An export in bf16 reduces nothing, on any CPU: what is left is its calibration anew."""
    from flawscope.runtime import openvino

    monkeypatch.setattr(openvino, "_precision_hint", lambda core, device, precision: "f32")


@pytest.fixture(scope="session")
def onnx_path(exported):
    """The same model, exported. Read only."""
    return exported("fp32")


@pytest.fixture(scope="session")
def two_products(shared):
    """A data set of two products, fabric and plate, drawn. Read only."""

    def fill(root):
        for name in ("fabric", "plate"):
            draw_dataset(root, category=name, train=12, good=4, bad_per_kind=1, size=96, seed=1)

    return shared("two-products", fill)


@pytest.fixture(scope="session")
def several_model(shared):
    """A small model of pictures that show five brackets each, exported. Read only."""

    def fill(folder):
        import flawscope
        from brackets import drawn
        from flawscope.cli import main

        good = [drawn(seed, range(5))[0] for seed in range(8)]
        options = {"align": "turn", "several": True, "size": "64", "check": False}
        flawscope.fit(good, device="cpu", **options).save(folder / "made.safetensors")
        assert main(["export", str(folder / "made.safetensors"), "--out", str(folder / "made.onnx")]) == 0

    return shared("several-parts", fill) / "made.onnx"


@pytest.fixture(scope="session")
def small_backbone():
    """Settings of a model that need not know much."""
    return SMALL_NETWORK


@pytest.fixture(scope="session")
def tiled_pictures(shared):
    """A folder of drawn parts, 160x224: train, good, odd, one of exactly one tile of `tiled` (tile) and one
    that is smaller (small). Read only."""
    import numpy as np
    from PIL import Image

    from flawscope.synthesis.demo.dataset import draw_picture

    def fill(folder):
        rng = np.random.default_rng(3)
        kinds = {"train": [None] * 8, "good": [None] * 2, "odd": ["crack", "scratch"]}
        for name, defects in kinds.items():
            (folder / name).mkdir()
            for number, defect in enumerate(defects):
                picture = draw_picture("plate", rng, defect, 0.2, size=224)[0][32:192]
                Image.fromarray(picture).save(folder / name / f"{number}.png")
        picture[90:, 150:] = rng.integers(0, 256, picture[90:, 150:].shape)  # odd to any network
        Image.fromarray(picture).save(folder / "odd/noise.png")
        for name, (height, width) in {"tile": (96, 96), "small": (95, 224)}.items():
            (folder / name).mkdir()
            Image.fromarray(picture[-height:, -width:]).save(folder / name / "0.png")

    return shared("tiled-pictures", fill)


@pytest.fixture(scope="session")
def tiled(tiled_pictures, shared):
    """A small PatchCore model that sees tiles of 96 pixels at 64, by kind of file and precision, and perhaps
    with a region of interest; made when it is first asked for. Read only."""

    @functools.cache
    def made(suffix=".safetensors", precision="fp32", roi=None):
        from flawscope.datasets import list_pictures
        from flawscope.export.export import export
        from flawscope.fitting.fitting import fit

        def fill(folder):
            options = {"tile": 96, "size": SIZE, "cap": 400, "roi": roi, "check": False}
            model = fit(list_pictures(tiled_pictures / "train"), device="cpu", seed=0, **options)
            model.save(folder / "plate.safetensors")

        def fill_exported(folder):
            pictures = [] if precision == "fp32" else list_pictures(tiled_pictures / "train")
            trained = made(roi=roi)
            export(trained, folder / f"plate{suffix}", precision=precision, pictures=pictures)

        name = f"tiled-{roi or 'all'}"
        if suffix == ".safetensors":
            return shared(name, fill) / "plate.safetensors"
        return shared(f"{name}-{suffix[1:]}-{precision}", fill_exported) / f"plate{suffix}"

    return made


@pytest.fixture(scope="session")
def teacher_path(shared):
    """A narrow teacher for EfficientAD with drawn weights, whose 384 outputs span 8 dimensions. Read only."""
    import torch

    from flawscope.methods.training.efficientad.networks import (
        expand_teacher,
        pdn,
        replace_last_layer,
        write_teacher,
    )
    from flawscope.methods.training.state import initialise

    network = replace_last_layer(pdn("s", width=16), 8)
    initialise(network, torch.Generator().manual_seed(0))
    state = expand_teacher(network.state_dict(), 8)
    backbone = {"name": "none", "origin": "drawn", "licence": "none"}
    facts = {"size": "s", "channels": 384, "rank": 8, "backbone": backbone}
    folder = shared("teacher", lambda folder: write_teacher(folder / "drawn.safetensors", state, facts))
    return folder / "drawn.safetensors"


@pytest.fixture(scope="session")
def quick_settings(teacher_path):
    """EfficientAD's settings with which a step of training is small."""
    return {"teacher": str(teacher_path), "steps": 3, "window": 41, "training": "fp32"}


@pytest.fixture(scope="session")
def efficientad_path(drawn, quick_settings, shared):
    """An EfficientAD model fitted on `drawn`, hardly trained. Read only."""
    from flawscope.fitting.fitting import fit

    def fill(folder):
        model = fit(drawn, method="efficientad", device="cpu", samples=2, **quick_settings)
        model.save(folder / "plate.safetensors")

    return shared("efficientad", fill) / "plate.safetensors"


@pytest.fixture
def page_method(tmp_path, monkeypatch):
    """page_method(name, before, after): a method of docs/adding-a-method.md, installed as pip does it, with
    `after` in place of `before`."""
    from flawscope.methods import registry

    page = Path(__file__).parent.joinpath("docs", "adding-a-method.md").read_text(encoding="utf-8")

    def install(name, before="", after=""):
        package, changed = f"flawscope_{name}", 0
        for file, text in re.findall(rf"^```python\n# ({package}/\w+\.py)\n(.*?)^```", page, re.M | re.S):
            changed += bool(before) and text.count(before)
            (tmp_path / package).mkdir(exist_ok=True)
            (tmp_path / file).write_text(text.replace(before, after) if before else text, encoding="utf-8")
        assert changed == bool(before)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[flawscope.methods]\n{name} = {package}:METHOD\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry._installed.cache_clear()
        return importlib.import_module(package).METHOD

    yield install
    registry._installed.cache_clear()
    registry.method.cache_clear()
    for module in [module for module in sys.modules if module.startswith(("flawscope_mean", "flawscope_re"))]:
        del sys.modules[module]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 24 drawn pictures of several kinds and shapes. Read only."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(5)
    for k in range(24):
        picture = draw_picture(list(CATEGORIES)[k % len(CATEGORIES)], rng, size=96 + k)[0]
        Image.fromarray(picture[: 80 + k]).save(folder / f"{k:02d}.png")
    return folder
