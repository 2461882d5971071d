"""EfficientAD's networks, the patch description network (PDN) and the autoencoder, and files of teachers.

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

# Mean and standard deviation of ImageNet's channels, for teachers of any origin
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
        channels = torch.stack([images.new_full((), value) for value in values])
    else:
        channels = torch.tensor(values, dtype=images.dtype, device=images.device)
    return channels.view(1, -1, 1, 1)


def pdn(size: Size, channels: int = CHANNELS, *, width: int | None = None) -> nn.Sequential:
    """Build a PDN without padding (tables 5 and 6): `[B, 3, H, W]` normalised to `[B, channels, h, w]`.

    There is an output per 4 pixels. On each axis, output i sees only the 33 pixels that begin with pixel 4 i.

    Args:
        size: "xs", "s" or "m".
        channels: 384 for a teacher, 768 for a student, whose second half predicts the autoencoder.
        width: Channels of the first layer; the layers that follow have twice as many. None: the usual width
            of the size.
    """
    width = width or WIDTHS[size]
    convolutions = [(4, width), (4, 2 * width)]  # side of the kernel, and output channels
    if size == "m":
        convolutions += [(1, 2 * width), (3, 2 * width), (4, channels), (1, channels)]
    else:
        convolutions += [(3, 2 * width), (4, channels)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    input_channels = 3
    for k, (kernel, output_channels) in enumerate(convolutions, 1):
        layers[f"conv{k}"] = nn.Conv2d(input_channels, output_channels, kernel)
        layers[f"relu{k}"] = nn.ReLU()
        if k <= 2:
            layers[f"pool{k}"] = nn.AvgPool2d(2, 2)
        input_channels = output_channels
    layers.popitem()  # nothing follows the last convolution
    return nn.Sequential(layers)


def width_of(first_weights: Tensor | Array | None, size: Size) -> int | None:
    """Return the width of a PDN by the weights of its first layer; None: no PDN of this size has them."""
    if first_weights is None or first_weights.ndim == 0:
        return None
    width: int = first_weights.shape[0]
    return width if 1 <= width <= WIDTHS[size] else None


def replace_last_layer(network: nn.Sequential, channels: int) -> nn.Sequential:
    """Give a PDN a new last layer with `channels` outputs, in place."""
    last = network[-1]
    assert isinstance(last, nn.Conv2d)
    network[-1] = nn.Conv2d(last.in_channels, channels, (last.kernel_size[0], last.kernel_size[1]))
    return network


def pdn_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Return (h, w) of a PDN's output for pictures of (H, W) pixels."""
    # the same as `count_outputs`: (side - 33) // 4 + 1 is side / 4, rounded up, minus 8
    height, width = (-(-side // STRIDE) - 8 for side in size)
    return height, width


def count_outputs(crop: int) -> int:
    """Return the number of outputs a side of an unpadded PDN for `crop` pixels a side."""
    return (crop - RECEPTIVE_FIELD) // STRIDE + 1


class Autoencoder(nn.Module):
    """Network that predicts the teacher's outputs from the entire picture.

    It turns normalised images `[B, 3, H, W]`, at least 256 pixels a side, into `[B, 384, h, w]` on a PDN's
    grid. Table 7 is for 256 x 256 pixels. Sizes in the decoder are shares of the input's size: thus the
    network takes other sizes, too, also with different sides.
    """

    def __init__(self, channels: int = CHANNELS, *, border: int = 0):
        """Build the network.

        Args:
            channels: Number of the teacher's outputs.
            border: Pixels beyond each edge of the picture that the PDN sees.
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
        maps = self.encoder(images)  # [B, 64, H/32 - 7, W/32 - 7]
        sizes = zip(decoder_sizes(height), decoder_sizes(width), strict=True)
        for layer, (h, w) in zip(self.decoder, sizes, strict=True):
            maps = layer(_resize(maps, (h, w)))  # [B, 64, h + 1, w + 1]
        pdn_size = (height + 2 * self.border, width + 2 * self.border)
        outputs: Tensor = self.last(_resize(maps, pdn_grid(pdn_size)))
        return outputs


def decoder_sizes(side: int) -> list[int]:
    """Return the sides of the inputs of the decoder's layers: 3, 8, 15, 32, 63, 127 for 256 pixels."""
    return [side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1]


def _halving_layers(input_channels: int, output_channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(input_channels, output_channels, 4, stride=2, padding=1), nn.ReLU()


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


REMEDY = "copy it again or distil anew"
TEACHERS_PACKAGE = "flawscope_weights"


def read_teacher(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Json]:
    """Read a teacher's weights and the facts about it.

    The file is from `write_teacher`, or a published state dict (.pth, .pt) in the layout of nelson1425's
    EfficientAD. A state dict is opened without unpickling any code, and its tensors are named by order and
    shape.

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
    network_tensors = _teacher_tensors(facts.get("size", ""), tensors)
    file_shapes = {name: tensor.shape for name, tensor in tensors.items()}
    network_shapes = {name: tensor.shape for name, tensor in network_tensors.items()}
    if not network_tensors or file_shapes != network_shapes:
        raise _bad_file_error(path, "its tensors are not those of a teacher")
    _check_teacher_facts(path, facts)
    # in the network's order, which safetensors does not keep
    state = {name: torch.from_numpy(tensors[name]).float() for name in network_tensors}
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise _bad_file_error(path, "some of its weights are not finite")
    return state, {**facts, "origin": origin}


def _teacher_tensors(size: Size, tensors: packed.Arrays) -> dict[str, Tensor]:
    """Return the tensors of an untrained teacher of this size, as wide as `tensors`; empty: there is none."""
    if size not in WIDTHS:
        return {}
    width = width_of(tensors.get("conv1.weight"), size)
    return pdn(size, width=width).state_dict() if width else {}


def _check_teacher_facts(path: Path, facts: Json) -> None:
    """Raise InputError for facts that do not name the backbone from which a teacher was made."""
    rank = facts.get("rank", CHANNELS)
    is_rank_valid = isinstance(rank, int) and 1 <= rank <= CHANNELS
    if not is_rank_valid or not isinstance(facts.get("backbone"), dict):
        raise _bad_file_error(path, "it does not say what it was made from")


def packaged_teacher(size: Size) -> Path:
    """Return the teacher file of a size in the package `flawscope_weights`.

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
    arrays = {name: tensor.half().cpu().numpy() for name, tensor in state.items()}
    packed.write_state(path, arrays, "teacher", facts)


def expansion_matrix(channels: int, outputs: int = CHANNELS) -> Tensor:
    """Return the matrix `[outputs, channels]` that expands a backbone's channels to more outputs.

    The columns are orthogonal and of length sqrt(outputs / channels), in fixed random directions. Mean
    squared differences of the outputs are then those of the channels, and all channels have the same weight;
    if some channels were repeated instead, they would weigh more. The matrix is the identity if there are as
    many outputs as channels.

    The last layer of a PDN is linear. Therefore the teacher is distilled with one output per channel, which
    takes less time, and its last layer is multiplied by this matrix afterwards. Outputs and loss are the same
    as for a teacher that was distilled with all outputs.
    """
    if channels == outputs:
        return torch.eye(outputs)
    rng = np.random.default_rng(outputs)
    basis, triangle = np.linalg.qr(rng.standard_normal((outputs, channels)))
    basis *= np.sign(np.diagonal(triangle))  # LAPACK libraries differ in their signs
    return torch.from_numpy(basis * (outputs / channels) ** 0.5).float()


def compact_teacher(state: Mapping[str, Tensor], facts: Facts) -> tuple[dict[str, Tensor], int]:
    """Return a teacher's state without its redundant outputs, and the number of outputs that remain.

    A teacher of a backbone with fewer than 384 channels was multiplied by `expansion_matrix`; this function
    undoes the product. Mean squared differences stay the same, and the last layers take less time.
    """
    channels = facts.get("rank", CHANNELS)
    compact_state = dict(state)
    if channels < CHANNELS:
        # the columns are orthogonal, and their squared length is CHANNELS / channels
        inverse = expansion_matrix(channels).T * (channels / CHANNELS)
        weight_name, bias_name = list(compact_state)[-2:]  # of the last layer
        compact_state[weight_name] = torch.einsum("co,oikl->cikl", inverse, compact_state[weight_name])
        compact_state[bias_name] = inverse @ compact_state[bias_name]
    return compact_state, channels


def expand_teacher(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Undo `compact_teacher`: return the state of a network with 384 outputs, on the CPU."""
    matrix = expansion_matrix(channels)
    expanded_state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    weight_name, bias_name = list(expanded_state)[-2:]  # of the last layer
    expanded_state[weight_name] = torch.einsum("oc,cikl->oikl", matrix, expanded_state[weight_name])
    expanded_state[bias_name] = matrix @ expanded_state[bias_name]
    return expanded_state


# ------------------------------------------------------------------------------------- published checkpoints


def _read_published(path: Path, body: bytes) -> tuple[dict[str, Tensor], Size]:
    """Return the state and the size of a published PDN; raise InputError for any other file."""
    try:
        content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        tensors = [value for value in content.values() if isinstance(value, Tensor)]
    except Exception:  # torch raises many kinds, such as pickle.UnpicklingError, RuntimeError and EOFError
        raise files.unusable_file_error(
            path, "it holds more than tensors, or is damaged: give the state dict of a PDN", "teacher"
        ) from None
    sizes: tuple[Size, ...] = ("s", "m")
    for size in sizes:
        state = pdn(size).state_dict()
        if [tensor.shape for tensor in tensors] == [tensor.shape for tensor in state.values()]:
            return {name: tensor.float() for name, tensor in zip(state, tensors, strict=True)}, size
    raise files.unusable_file_error(
        path, "its tensors are not those of a PDN-S or PDN-M with 384 channels", "teacher"
    )


def _bad_file_error(path: Path, reason: str) -> InputError:
    return files.unusable_file_error(path, f"{reason}; {REMEDY}", "teacher")
