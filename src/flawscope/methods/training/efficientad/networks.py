"""EfficientAD's networks: the patch description network (PDN) and the autoencoder; and a teacher's file.

The PDN serves as teacher and as student (Batzner, Heckler, König, EfficientAD, WACV 2024, appendix A.1,
tables 5 to 7). All networks take pictures from `normalise`, as the published teachers do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.artefact import files
from flawscope.errors import InputError, install_command
from flawscope.methods.features.weights import find_in_package
from flawscope.methods.training import state_file as packed
from flawscope.methods.training.efficientad.record import CHANNELS, RECEPTIVE_FIELD, STRIDE, WIDTHS, Size
from flawscope.types import Array, Facts, Json

# ImageNet's, whatever the teacher was made from
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """Turn images `[B, 3, H, W]` in 0..1, RGB, into the networks' input."""
    return (images - _channels(MEAN, images)) / _channels(STD, images)


def _channels(values: tuple[float, ...], images: Tensor) -> Tensor:
    """Return the values as `[1, 3, 1, 1]` in the images' dtype, on their device.

    On a GPU each value is filled in there: a copy from the host would make the GPU wait, and cannot be part
    of a CUDA graph.
    """
    if images.device.type == "cuda":
        found = torch.stack([images.new_full((), value) for value in values])
    else:
        found = torch.tensor(values, dtype=images.dtype, device=images.device)
    return found.view(1, -1, 1, 1)


def pdn(size: Size, channels: int = CHANNELS, *, width: int | None = None) -> nn.Sequential:
    """Build a PDN without padding (tables 5 and 6): `[B, 3, H, W]` normalised to `[B, channels, h, w]`.

    There is a description per 4 pixels. Output i sees the 33 pixels from 4 i on and nothing else.

    Args:
        size: "xs", "s" or "m".
        channels: 384 for a teacher, 768 for a student, whose second half predicts the autoencoder.
        width: Channels of the first layer; the layers that follow have twice as many. None: the size's.
    """
    width = width or WIDTHS[size]
    table = [(4, width), (4, 2 * width)]  # kernel and outputs of the convolutions
    if size == "m":
        table += [(1, 2 * width), (3, 2 * width), (4, channels), (1, channels)]
    else:
        table += [(3, 2 * width), (4, channels)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for k, (kernel, outputs) in enumerate(table, 1):
        layers[f"conv{k}"] = nn.Conv2d(inputs, outputs, kernel)
        layers[f"relu{k}"] = nn.ReLU()
        if k <= 2:
            layers[f"pool{k}"] = nn.AvgPool2d(2, 2)
        inputs = outputs
    layers.popitem()  # nothing follows the last convolution
    return nn.Sequential(layers)


def width_of(first: Tensor | Array | None, size: Size) -> int | None:
    """Return the width of a PDN whose first layer has these weights; None: no PDN has it."""
    width = 0 if first is None or first.ndim == 0 else first.shape[0]
    return width if 1 <= width <= WIDTHS[size] else None


def replace_last_layer(network: nn.Sequential, channels: int) -> nn.Sequential:
    """Give a PDN a new last layer with `channels` outputs, in place."""
    last = network[-1]
    assert isinstance(last, nn.Conv2d)
    network[-1] = nn.Conv2d(last.in_channels, channels, (last.kernel_size[0], last.kernel_size[1]))
    return network


def pdn_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Return (h, w) of a PDN's output for pictures of (H, W) pixels."""
    height, width = (-(-n // STRIDE) - 8 for n in size)
    return height, width


def count_outputs(crop: int) -> int:
    """Return the number of outputs a side of an unpadded PDN for `crop` pixels a side."""
    return (crop - RECEPTIVE_FIELD) // STRIDE + 1


class Autoencoder(nn.Module):
    """Network that sees whole pictures, and predicts the teacher's outputs.

    It turns normalised images `[B, 3, H, W]`, at least 256 pixels a side, into `[B, 384, h, w]` on a PDN's
    grid. Table 7 is for 256 x 256 pixels. The decoder's sizes are shares of the input's: other sizes work
    too, also when the sides differ.
    """

    def __init__(self, channels: int = CHANNELS, *, border: int = 0):
        """Build the network.

        Args:
            channels: Number of the teacher's outputs.
            border: Pixels beyond each edge of the picture that the PDN sees with which it is compared.
        """
        super().__init__()
        self.border = border
        self.encoder = nn.Sequential(  # side for 256 pixels
            *_halving_layers(3, 32),  # 128
            *_halving_layers(32, 32),  # 64
            *_halving_layers(32, 64),  # 32
            *_halving_layers(64, 64),  # 16
            *_halving_layers(64, 64),  # 8
            nn.Conv2d(64, 64, 8),  # 1
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(), nn.Dropout(0.2)) for _ in range(6)
        )
        self.last = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, channels, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs `[B, C, h, w]` on the PDN's grid of normalised images `[B, 3, H, W]`."""
        height, width = images.shape[-2:]
        x = self.encoder(images)  # [B, 64, H/32 - 7, W/32 - 7]
        for layer, (h, w) in zip(
            self.decoder, zip(decoder_sizes(height), decoder_sizes(width), strict=True), strict=True
        ):
            x = layer(_resize(x, (h, w)))  # [B, 64, h + 1, w + 1]
        seen = (height + 2 * self.border, width + 2 * self.border)
        output: Tensor = self.last(_resize(x, pdn_grid(seen)))
        return output


def decoder_sizes(side: int) -> list[int]:
    """Return the sizes of the decoder's inputs: 3, 8, 15, 32, 63, 127 for 256 pixels. Each layer adds 1."""
    return [side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1]


def _halving_layers(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU()


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


REMEDY = "copy it again or distil anew"
TEACHERS_PACKAGE = "flawscope_weights"


def read_teacher(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Json]:
    """Read a teacher's weights and the facts about it.

    The file comes from `write_teacher`, or is a published state dict (.pth, .pt) in the layout of
    nelson1425's EfficientAD. This is opened without unpickling any code, and its tensors are matched by order
    and shape.

    Returns:
        The state of `pdn(facts["size"])`, float32, and facts with at least `size` ("xs", "s" or "m"),
        `channels`, `backbone` (name, origin, licence) and `origin` (file and hash).

    Raises:
        InputError: The file is missing, damaged or no teacher; one line names the fault.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no teacher {path}: check the path (docs/efficientad.md)")
    body = packed.read_state_bytes(path, "teacher")
    origin = f"file {path.name} sha256 {hashlib.sha256(body).hexdigest()}"
    if path.suffix in (".pth", ".pt"):
        state, size = _read_published(path, body)
        unknown = {"name": "unknown", "origin": "unknown", "licence": "as the file's owner says"}
        return state, {"size": size, "channels": CHANNELS, "backbone": unknown, "origin": origin}
    tensors, facts = packed.parse_state(path, body, "teacher", REMEDY)
    wanted = _teacher_tensors(facts.get("size", ""), tensors)
    if not wanted or {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in wanted.items()}:
        raise _bad_file(path, "its tensors are not those of a teacher")
    _check_teacher_facts(path, facts)
    state = {k: torch.from_numpy(tensors[k]).float() for k in wanted}  # safetensors has its own order
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise _bad_file(path, "some of its weights are not finite")
    return state, {**facts, "origin": origin}


def _teacher_tensors(size: Size, tensors: packed.Arrays) -> dict[str, Tensor]:
    """Return fresh tensors of a teacher of this size, as wide as the given ones; empty: there is none."""
    if size not in WIDTHS:
        return {}
    width = width_of(tensors.get("conv1.weight"), size)
    return pdn(size, width=width).state_dict() if width else {}


def _check_teacher_facts(path: Path, facts: Json) -> None:
    """Raise InputError for facts that do not name the backbone from which a teacher was made."""
    rank = facts.get("rank", CHANNELS)
    is_rank = isinstance(rank, int) and 1 <= rank <= CHANNELS
    if not is_rank or not isinstance(facts.get("backbone"), dict):
        raise _bad_file(path, "it does not say what it was made from")


def packaged_teacher(size: Size) -> Path:
    """Return the file of the teacher of this size in the package `flawscope_weights`.

    Raises:
        InputError: The package is not installed, or holds no teacher of this size.
    """
    path = find_in_package(TEACHERS_PACKAGE, f"pdn_{size}.safetensors")
    if path is not None:
        return path
    if importlib.util.find_spec(TEACHERS_PACKAGE) is None:
        raise InputError(
            f"the teachers of EfficientAD are not installed: {install_command(package='flawscope-weights')}, "
            "or name one with --set teacher=FILE (docs/efficientad.md)"
        )
    raise InputError(
        f"no teacher PDN-{size.upper()} comes with flawscope: name one with --set teacher=FILE "
        "(docs/efficientad.md)"
    )


def write_teacher(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], facts: Mapping[str, object]
) -> None:
    """Write a teacher atomically: fp16 tensors and `facts` as JSON in a safetensors file."""
    packed.write_state(path, {k: v.half().cpu().numpy() for k, v in state.items()}, "teacher", facts)


def expansion_matrix(channels: int, outputs: int = CHANNELS) -> Tensor:
    """Return the matrix `[outputs, channels]` that expands channels to more outputs; equal: the identity.

    The columns are orthogonal and of length sqrt(outputs / channels), in fixed random directions. Mean
    squared differences of the 384 outputs are exactly those of the standardised channels, and no channel
    weighs more than another, as it would if some were repeated.

    The last layer of a PDN is linear: the teacher is distilled with an output a channel, which costs less,
    and its last layer is multiplied afterwards. The function and the loss are the same.
    """
    if channels == outputs:
        return torch.eye(outputs)
    rng = np.random.default_rng(outputs)
    basis, triangle = np.linalg.qr(rng.standard_normal((outputs, channels)))
    basis *= np.sign(np.diagonal(triangle))  # LAPACKs differ in their signs
    return torch.from_numpy(basis * (outputs / channels) ** 0.5).float()


def compact_teacher(state: Mapping[str, Tensor], facts: Facts) -> tuple[dict[str, Tensor], int]:
    """Return a teacher's state without its redundant outputs, and the number of outputs left.

    This undoes `expansion_matrix`, for teachers of backbones with fewer than 384 channels: mean squared
    differences stay the same, and the last layers cost less.
    """
    channels = facts.get("rank", CHANNELS)
    state = dict(state)
    if channels < CHANNELS:
        back = expansion_matrix(channels).T * (channels / CHANNELS)
        weight, bias = list(state)[-2:]
        state[weight] = torch.einsum("co,oikl->cikl", back, state[weight])
        state[bias] = back @ state[bias]
    return state, channels


def expand_teacher(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Undo `compact_teacher`: return the state of a network with 384 outputs, on the CPU."""
    widen = expansion_matrix(channels)
    wide = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    weight, bias = list(wide)[-2:]
    wide[weight] = torch.einsum("oc,cikl->oikl", widen, wide[weight])
    wide[bias] = widen @ wide[bias]
    return wide


# ------------------------------------------------------------------------------------- published checkpoints


def _read_published(path: Path, body: bytes) -> tuple[dict[str, Tensor], Size]:
    try:
        found = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        values = [v for v in found.values() if isinstance(v, Tensor)]
    except Exception:  # pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ...
        raise files.unusable_file_error(
            path, "it holds more than tensors, or is damaged: give the state dict of a PDN", "teacher"
        ) from None
    sizes: tuple[Size, ...] = ("s", "m")
    for size in sizes:
        wanted = pdn(size).state_dict()
        if [v.shape for v in values] == [v.shape for v in wanted.values()]:
            return {k: v.float() for k, v in zip(wanted, values, strict=True)}, size
    raise files.unusable_file_error(
        path, "its tensors are not those of a PDN-S or PDN-M with 384 channels", "teacher"
    )


def _bad_file(path: Path, reason: str) -> InputError:
    return files.unusable_file_error(path, f"{reason}; {REMEDY}", "teacher")
