"""The OpenVINO session, and the .xml model file with its weights in a .bin beside it: neither needs torch.

The .xml's runtime info holds what a .safetensors model holds in its header: the manifest, the sample
pictures, and hashes of both, of the network and of the .bin. Reading it does not need OpenVINO.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import embedded, files
from flawscope.artefact.embedded import SHA256
from flawscope.artefact.model_file import KEY, Artefact, Manifest
from flawscope.errors import FlawscopeError, InputError, needs, one_line
from flawscope.machine import all_threads
from flawscope.runtime import FEW, inputs, together
from flawscope.runtime import openvino_xml as metadata

WEIGHTS_SHA256 = f"{KEY}.weights_sha256"
# What OpenVINO computes with, asked for by name: left to itself it takes bf16 where the processor has it.
# Of fp16 only the stored weights are half as long; of int8 whatever the network does not say itself is f32.
STEPS = ("images", "features", "positions")  # what the network's two steps, embed and score, are given
HINTS = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}


# ------------------------------------------------------------------------------------------------- the file


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest alone. Weights have to be there; they are neither read nor checked."""
    return embedded.manifest(_entries(_network(path), path), path)


def read(path: str | os.PathLike[str]) -> Artefact:
    """Manifest, sample pictures and region of interest. Weights are checked, and stay where they are.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    data = _network(path)
    entries = _entries(data, path)
    manifest = embedded.manifest(entries, path)
    try:
        if embedded.digest([metadata.body(data, KEY)]) != entries.get(SHA256):
            raise ValueError
    except ValueError:
        raise files.bad(path, "its network was altered or damaged") from None
    weights = weights_of(path)
    with files.opened(weights) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entries.get(WEIGHTS_SHA256):
            raise files.bad(path, f"its weights {weights.name} are of another model, or damaged")
    if odd := metadata.odd(data, KEY):
        raise files.refused(path, f"its network has {odd}; export it anew")
    return Artefact(manifest, embedded.tensors(entries, manifest, path))


def write(artefact: Artefact, model: Any, path: str | os.PathLike[str]) -> None:
    """A network (an `openvino.Model`) with this artefact's manifest and samples: the .xml and, beside it, the
    .bin. Each is written atomically, the .bin first; a pair that does not belong together is not read.
    """
    path = Path(path)
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as folder:
            made = Path(folder) / "model.xml"
            engine().save_model(model, made, compress_to_fp16=False)
            with open(weights_of(made), "rb") as weights:
                body = metadata.prepared(made.read_bytes(), KEY)
                if odd := metadata.odd(body, KEY):  # `read` would refuse it
                    raise ValueError(f"its network has {odd}")
                _write(artefact, body, weights, _hashes(body, weights), path)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    except (RuntimeError, ValueError) as error:
        raise FlawscopeError(f"OpenVINO cannot write {path}: {one_line(error)}") from None


def open_session(
    artefact: Artefact, path: str | os.PathLike[str], device: str = "auto", threads: int | None = None
) -> OpenVinoSession:
    """The session of the artefact that was read from `path`."""
    return OpenVinoSession.open(artefact, path, device, threads)


def weights_of(path: str | os.PathLike[str]) -> Path:
    """Where the weights of an .xml model lie."""
    return Path(path).with_suffix(".bin")


def _hashes(body: bytes, weights: BufferedReader) -> dict[str, str]:
    return {
        SHA256: embedded.digest([body]),
        WEIGHTS_SHA256: hashlib.file_digest(weights, "sha256").hexdigest(),
    }


def _write(
    artefact: Artefact,
    body: bytes,
    weights: BufferedReader,
    hashes: dict[str, str],
    path: str | os.PathLike[str],
) -> None:
    data = metadata.written(body, embedded.pack(artefact, hashes), KEY)
    if len(data) > metadata.LIMIT:
        raise FlawscopeError(
            f"cannot write {path}: its network and manifest take more than an .xml model may, "
            f"{metadata.LIMIT >> 20} MiB; fit with fewer pictures"
        )
    target = weights_of(path)
    with files.atomic(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # it has its place on the disk before the old weights go
        if not (target.exists() and os.path.samestat(os.fstat(weights.fileno()), os.stat(target))):
            weights.seek(0)
            with files.atomic(target) as copy:
                shutil.copyfileobj(weights, copy)


def _network(path: str | os.PathLike[str]) -> bytes:
    with files.opened(path) as file:
        if not 0 < os.fstat(file.fileno()).st_size <= metadata.LIMIT:
            raise files.bad(path, "it is empty, or larger than an .xml model can be")
        data = file.read(metadata.LIMIT)
    weights = weights_of(path)
    if not os.path.isfile(weights):
        raise files.refused(path, f"its weights {weights.name} are not beside it; copy both files")
    return data


def _entries(data: bytes, path: Any) -> dict[str, str]:
    try:
        return metadata.read(data, KEY)
    except ValueError:
        raise files.bad(path, embedded.FOREIGN) from None


# ---------------------------------------------------------------------------------------------- the session

_importing, _making = Lock(), Lock()
_core: Any = None


@contextmanager
def without_telemetry() -> Iterator[None]:
    """OpenVINO's packages, imported in this block, send nothing. Left to itself, `import openvino` already
    reports to a server of its makers and leaves a number for this person in the home folder, if nobody opted
    out. Where its package for that is missing, OpenVINO goes without: here it is missing.
    """
    name = "openvino_telemetry"
    with _importing:
        before = sys.modules.get(name)
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before


def engine() -> Any:
    """The package openvino. InputError if it is not installed."""
    try:
        if "openvino" in sys.modules:  # somebody else's wish
            import openvino
        else:
            with without_telemetry():
                import openvino
    except ImportError:
        raise needs("running an .xml model", "openvino", extras="openvino") from None
    return openvino


def core() -> Any:
    """OpenVINO's `Core`: one, for the life of the process.

    Each would load its own CPU plugin, which takes a stack of its own for this thread's signal handlers, and
    when it goes gives back the stack that it found. Of two that do not end in the reverse of their order, the
    second gives back the first one's, which is gone: the next signal, such as Ctrl-C, ends the process with a
    segmentation fault (OpenVINO 2026.4).

    It has run once. When several threads are the first to run anything, they can wait for each other for
    ever: one holds Python's lock while it waits for the binding's first look for numpy, which another one is
    at, and waits with it for Python's lock.
    """
    global _core
    with _making:
        if _core is None:
            made = engine().Core()
            try:
                _run_once(made)
            except Exception as error:  # RuntimeError, or whatever its binding makes of one
                raise FlawscopeError(f"OpenVINO cannot run here: {one_line(error)}") from None
            _core = made
        return _core


def _run_once(core: Any) -> None:
    """Numbers of both kinds that networks are given, in and out."""
    ov = engine()
    given = [ov.opset13.parameter([1], kind) for kind in (ov.Type.f32, ov.Type.i64)]
    model = ov.Model([ov.opset13.result(one) for one in given], given)
    found = (
        core.compile_model(model, "CPU")
        .create_infer_request()
        .infer([np.zeros(1, np.float32), np.zeros(1, np.int64)])
    )
    for value in found.values():
        np.array(value)


class OpenVinoSession:
    """Images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, on the CPU or what OpenVINO has."""

    runtime = "openvino"
    suffix = ".xml"

    def __init__(self, model: Any, device: str = "auto", threads: int | None = None, precision: str = "fp32"):
        """
        Args:
            model: an `openvino.Model` with any number of pictures a batch.
            device: auto (the CPU), cpu, gpu, npu.
            threads: of the CPU; None: as many as there are cores.
            precision: what the model was made for, one of `HINTS`.
        """
        self.model = model
        self.path: Path | None = None
        self.digests: tuple[str | None, str | None] = (None, None)  # of network and weights, as opened
        self.size, self.located = _size(model)
        device = _device(core(), device)
        self.on_cpu = device == "CPU"
        self.threads = threads or all_threads()
        self._beside: list[Any] = []  # the same for `run_alone`; when it is asked
        self._compiling = Lock()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _hint(core(), device, precision),
        }
        if device == "CPU":
            # Pinned, two processes of one thread each would share the first core
            options["ENABLE_CPU_PINNING"] = False
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = threads
        try:
            parts = [model]
            if options["INFERENCE_PRECISION_HINT"] == "bf16":  # of the features alone, as it was exported
                parts = _halves(model)
            self._compile = partial(_compiled, core(), parts, device, options)
            self.parts = self._compile()
        except InputError:
            raise
        except Exception as error:  # RuntimeError, or whatever its binding makes of one
            raise InputError(f"OpenVINO cannot use this model: {one_line(error)}") from None

    @classmethod
    def open(
        cls,
        artefact: Artefact,
        path: str | os.PathLike[str],
        device: str = "auto",
        threads: int | None = None,
    ) -> OpenVinoSession:
        """The session of the artefact that was read from `path`."""
        path, reading = Path(path), core()
        try:
            model = reading.read_model(str(path), str(weights_of(path)))
        except Exception as error:
            raise files.refused(path, f"OpenVINO cannot read it: {one_line(error)}") from None
        try:
            how = artefact.manifest.preprocess
            if _size(model) != (tuple(how.network_size), how.positions is not None):
                raise InputError("its size or its tiles are not its manifest's; export it anew")
            session = cls(model, device, threads, artefact.manifest.calibration.precision)
        except InputError as error:
            raise files.refused(path, str(error)) from None
        entries = _entries(_network(path), path)  # `read` has compared them
        session.path, session.digests = path, (entries.get(SHA256), entries.get(WEIGHTS_SHA256))
        return session

    @property
    def batch(self) -> int:
        """Pictures that are fastest together here. On a CPU one keeps all threads busy, and more of them only
        take memory (bench/latency.py)."""
        return 1 if self.on_cpu else together(self.size, FEW)

    @property
    def lanes(self) -> int:
        """Two a thread: while one waits for OpenVINO's thread to end a picture, that has the next one."""
        return 2 * self.threads if self.on_cpu and self.threads > 1 else 1

    def run_alone(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not self.on_cpu:
            return self.run(images, positions)
        with self._compiling:
            if not self._beside:  # as many streams as threads: each has one
                count = {"NUM_STREAMS": self.threads, "INFERENCE_NUM_THREADS": self.threads}
                self._beside = self._compile(count)
        return self._run(self._beside, images, positions)

    def run(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._run(self.parts, images, positions)

    def _run(
        self, parts: list[Any], images: NDArray[np.float32], positions: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = inputs(images, positions, self.located)
        try:
            # One of its own for each call: several threads may call at once
            for part in parts:
                given = {name: found[name] for i in part.inputs for name in i.names if name in STEPS}
                results = part.create_infer_request().infer(given)
                found |= {name: value for output, value in results.items() for name in output.names}
            scores, maps = (np.array(found[name], np.float32) for name in ("scores", "maps"))
        except Exception as error:
            raise FlawscopeError(f"OpenVINO failed: {one_line(error)}") from None
        count = len(images)
        if (scores.shape, maps.shape) != ((count,), (count, *self.size)):
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores, maps

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """This network with the artefact's manifest: weights are copied byte by byte."""
        if self.path is None:
            write(artefact, self.model, path)
            return
        try:
            body = metadata.body(_network(self.path), KEY)
        except ValueError:
            raise files.bad(self.path, "its network was altered or damaged") from None
        with files.opened(weights_of(self.path)) as weights:
            hashes = _hashes(body, weights)
            if tuple(hashes.values()) != self.digests:
                raise files.refused(self.path, "it has changed since it was opened; open it again")
            _write(artefact, body, weights, hashes, path)


def _size(model: Any) -> tuple[tuple[int, int], bool]:
    """Height and width of the pictures it takes, from what it declares, and whether it is told where they
    lie; nothing is computed."""
    wrong = InputError("it has other inputs and outputs than it should; export it anew")
    try:
        given = {name: i for i in model.inputs for name in i.names}
        images, positions = given["images"], given.get("positions")
        others = len(model.inputs) - (1 if positions is None else 2)
        if others or (positions is not None and positions.element_type.get_type_name() != "i64"):
            raise wrong
        outputs = [name for output in model.outputs for name in ("scores", "maps") if name in output.names]
        shape = [int(d.get_length()) if d.is_static else None for d in images.partial_shape]
        right = "images" in images.names and images.element_type.get_type_name() == "f32"
    except Exception:
        raise wrong from None
    if not right or outputs != ["scores", "maps"] or len(model.outputs) != 2 or len(shape) != 4:
        raise wrong
    batch, channels, height, width = shape
    if batch is not None or channels != 3 or not height or not width:
        raise wrong
    return (height, width), positions is not None


def _compiled(
    core: Any, parts: list[Any], device: str, options: dict[str, Any], others: Mapping[str, Any] | None = None
) -> list[Any]:
    """The network's parts, ready to run; all but the first compute in fp32."""
    chosen = options | dict(others or {})
    rest = chosen | {"INFERENCE_PRECISION_HINT": "f32"}
    return [core.compile_model(part, device, rest if k else chosen) for k, part in enumerate(parts)]


def _halves(model: Any) -> list[Any]:
    """The network's two steps: images to features, and features to scores and maps. The second is given the
    images too: OpenVINO reads from them how many there are."""
    ov = engine()

    def features_of(model: Any) -> Any:
        found = [output for op in model.get_ops() for output in op.outputs() if "features" in output.names]
        if len(found) != 1:
            raise InputError("its network has no features; export it anew")
        return found[0]

    embed, score = model.clone(), model.clone()
    result = ov.opset13.result(features_of(embed))
    cut = features_of(score)
    given = ov.opset13.parameter(cut.partial_shape, cut.element_type)
    for target in cut.get_target_inputs():
        target.replace_source_output(given.output(0))
    cut.set_names(set())
    given.output(0).set_names({"features"})
    return [
        ov.Model([result], embed.get_parameters(), "embed"),
        ov.Model(score.get_results(), [given, *score.get_parameters()], "score"),
    ]


def _device(core: Any, name: str) -> str:
    available = list(core.available_devices)
    wanted = "CPU" if name == "auto" else name.upper()
    if wanted in available or f"{wanted}.0" in available:
        return wanted
    names = ", ".join(["auto", *map(str.lower, available)])
    raise InputError(f"OpenVINO has no device {name} here: use one of {names}")


def _hint(core: Any, device: str, precision: str) -> str:
    if precision not in HINTS:
        raise InputError(f"it is of precision {precision!s:.20}, and OpenVINO has {', '.join(HINTS)}")
    if precision == "bf16" and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise InputError(f"it is of precision bf16, which this {device} lacks; export it with another")
    return HINTS[precision]
