"""The ONNX Runtime session, and the .onnx model file: neither needs torch.

The file's metadata hold what a .safetensors model holds in its header: the manifest, the sample pictures, and
hashes of both and of everything else.
"""

from __future__ import annotations

import base64
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from flawscope import artefact as artefacts
from flawscope.artefact import KEY, Artefact, Manifest
from flawscope.errors import FlawscopeError, InputError
from flawscope.runtime import onnx_metadata as metadata

SHA256, METADATA_SHA256 = f"{KEY}.sha256", f"{KEY}.metadata_sha256"
# Of the artefact's tensors only what is needed beside the network: self-test, new calibration
KEPT = {"samples": np.dtype(np.uint8), "roi": np.dtype(np.bool_)}
MOST_BYTES = 32 * 2**20  # of one of them; larger ones stay in the .safetensors file


# ------------------------------------------------------------------------------------------------- the file


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest alone. Weights are neither read nor checked."""
    with _mapped(path) as data:
        return _manifest(data, path)[0]


def read(path: str | os.PathLike[str]) -> Artefact:
    """Manifest, sample pictures and region of interest. Weights are checked, and stay where they are.

    Raises:
        InputError: one line that says what is wrong with the file.
    """
    with _mapped(path) as data:
        manifest, entries = _manifest(data, path)
        if metadata.digest(metadata.body(data, KEY)) != entries.get(SHA256):
            raise artefacts.bad(path, "its network was altered or damaged")
        try:
            outside = metadata.has_external_data(data)
            size = manifest.preprocess.network_size
            shapes = {"samples": (len(manifest.samples), 3, *size), "roi": size}
            tensors: dict[str, NDArray[Any]] = {
                name: _unpack(entries[f"{KEY}.{name}"], shapes[name]).astype(kind)
                for name, kind in KEPT.items()
                if f"{KEY}.{name}" in entries
            }
        except (ValueError, zlib.error):
            raise artefacts.bad(path, "its network or its pictures are damaged") from None
        if outside:
            raise artefacts.refused(path, "its weights lie in other files; export it into one")
    return Artefact(manifest, tensors)


def write(artefact: Artefact, network: metadata.Buffer, path: str | os.PathLike[str]) -> None:
    """A network (an .onnx file's bytes) with this artefact's manifest and samples, atomically."""
    entries = {KEY: json.dumps(artefact.manifest.to_dict(), allow_nan=False)}
    for name, kind in KEPT.items():
        tensor = artefact.tensors.get(name)
        if tensor is not None and tensor.dtype == kind and tensor.nbytes <= MOST_BYTES:
            entries[f"{KEY}.{name}"] = _pack(tensor)
    entries[SHA256] = metadata.digest(metadata.body(network, KEY))
    entries[METADATA_SHA256] = _metadata_hash(entries)
    with artefacts.atomic(path) as file:
        metadata.write(file, metadata.body(network, KEY), entries)


def _manifest(data: memoryview, path: Any) -> tuple[Manifest, dict[str, str]]:
    try:
        entries = metadata.read(data, KEY)
        content = json.loads(entries[KEY], parse_constant=artefacts.no_constant)
        if not isinstance(content, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise artefacts.bad(path, "it is no flawscope model, or damaged") from None
    try:
        manifest = Manifest.from_dict(content)
    except InputError as error:
        raise artefacts.bad(path, str(error)) from None
    if _metadata_hash(entries) != entries.get(METADATA_SHA256):
        raise artefacts.bad(path, "its manifest was altered or damaged")
    return manifest, entries


def _metadata_hash(entries: Mapping[str, str]) -> str:
    ours = {k: v for k, v in entries.items() if k != METADATA_SHA256}
    return metadata.digest([json.dumps(ours, sort_keys=True).encode()])


@contextmanager
def _mapped(path: str | os.PathLike[str]) -> Iterator[memoryview]:
    with artefacts.opened(path) as file:
        if not 0 < os.fstat(file.fileno()).st_size <= metadata.LIMIT:
            raise artefacts.bad(path, "it is empty, or larger than an .onnx file can be")
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _pack(pixels: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(pixels.tobytes())).decode("ascii")


def _unpack(text: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """ValueError or zlib.error if it has another size; no more is unpacked than that."""
    if math.prod(shape) > MOST_BYTES:
        raise ValueError
    engine = zlib.decompressobj()
    data = engine.decompress(base64.b64decode(text, validate=True), math.prod(shape) + 1)
    return np.frombuffer(data, np.uint8).reshape(shape)


# ---------------------------------------------------------------------------------------------- the session


class OnnxSession:
    """Images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, on the CPU or with CUDA."""

    runtime = "onnxruntime"
    suffix = ".onnx"

    def __init__(self, model: str | os.PathLike[str] | bytes, device: str = "auto"):
        """
        Args:
            model: an .onnx file or its bytes.
            device: auto (the CPU), cpu or cuda.
        """
        self.path = None if isinstance(model, bytes) else os.fspath(model)
        name = self.path or "the exported network"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions; they need not be printed too
        try:
            self.engine = onnxruntime.InferenceSession(
                self.path or model, options, providers=_providers(device)
            )
        except InputError:
            raise
        except Exception as error:  # its exceptions have no common class of their own
            raise InputError(f"ONNX Runtime cannot use model {name}: {_one_line(error)}") from None
        images = {i.name: (i.type, i.shape) for i in self.engine.get_inputs()}
        outputs = [o.name for o in self.engine.get_outputs()]
        kind, shape = images.get("images", ("", []))
        height, width = shape[2:] if len(shape) == 4 else (None, None)
        right = len(images) == 1 and kind == "tensor(float)" and shape[1:2] == [3]
        if not (right and isinstance(height, int) and isinstance(width, int)) or outputs != [
            "scores",
            "maps",
        ]:
            raise InputError(f"cannot use model {name}: it has other inputs and outputs; export it anew")
        self.size = (height, width)

    @classmethod
    def open(cls, artefact: Artefact, path: str | os.PathLike[str], device: str = "auto") -> OnnxSession:
        """The session of the artefact that was read from `path`."""
        session = cls(path, device)
        if session.size != tuple(artefact.manifest.preprocess.network_size):
            raise InputError(f"cannot use model {path}: its size is not its manifest's; export it anew")
        return session

    @property
    def batch(self) -> int:
        """Pictures that are fastest together here."""
        pixels = self.size[0] * self.size[1]
        return max(1, min(8, 8 * 256 * 256 // pixels))

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            scores, maps = self.engine.run(["scores", "maps"], {"images": images})
        except Exception as error:
            raise FlawscopeError(f"ONNX Runtime failed: {_one_line(error)}") from None
        count = len(images)
        if (scores.shape, maps.shape) != ((count,), (count, *self.size)):
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores.astype(np.float32, copy=False), maps.astype(np.float32, copy=False)

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """This network with the artefact's manifest: weights are copied byte by byte."""
        if self.path is None:
            raise FlawscopeError("a network without a file cannot be saved")
        with _mapped(self.path) as network:
            write(artefact, network, path)


def _providers(device: str) -> list[Any]:
    kind, _, number = device.partition(":")
    if kind in ("auto", "cpu") and not number:
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (number and not number.isdigit()):
        raise InputError(f"ONNX Runtime has no device {device}: use auto, cpu or cuda")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise InputError("this ONNX Runtime has no CUDA: use --device cpu, or install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": number or "0"}), "CPUExecutionProvider"]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
