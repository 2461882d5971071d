"""Any timm model as a frozen feature extractor: chosen stages, batch normalisation folded, eval mode."""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flawscope.errors import InputError, pluralize
from flawscope.methods.features.transformer import Transformer, is_transformer, read_graph
from flawscope.methods.features.weights import locate

if TYPE_CHECKING:
    from flawscope.types import Json

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def import_timm() -> ModuleType:
    """Import timm, also where torchvision's compiled operators do not fit the installed torch.

    A CPU build of torch beside torchvision's default build is common on machines without a GPU. Importing
    torchvision then fails because two operators of its extension are unknown. timm needs its picture
    transforms only: it is enough to declare the two operators, and never to call them.
    """
    if "timm" not in sys.modules:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            _declare_torchvision_operators()
    return importlib.import_module("timm")


_torchvision_library: torch.library.Library | None = None  # must outlive the declaration


def _declare_torchvision_operators() -> None:
    global _torchvision_library
    _torchvision_library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _torchvision_library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


class Backbone(nn.Module):
    """Network from images `[B, 3, H, W]` in 0..1 to a feature map `[B, C_j, H_j, W_j]` per chosen stage.

    Frozen: no parameter takes a gradient, and `train()` leaves it in eval mode: batch normalisation never
    drifts. Stages have timm's numbers: in convolutional networks stage j has stride 2**(j + 1) (ResNet's
    layer2 is 2), in transformers they are block numbers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, stages: tuple[int, ...], size: tuple[int, int], network: nn.Module):
        super().__init__()
        self.name = name
        self.stages = stages
        self.size = size
        self.network = network
        # Swin and its kin give [B, H, W, C]
        self.channels_last = "NHWC" in str(getattr(network, "output_fmt", ""))
        cfg = _pretrained_facts(network)
        mean = cfg.get("mean") or IMAGENET[0]
        std = cfg.get("std") or IMAGENET[1]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        # position embeddings belong to one size
        self.fixed = bool(cfg.get("fixed_input_size")) and not isinstance(network, Transformer)
        self.requires_grad_(False)
        self.eval()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it: another process imports timm by `import_timm` before it meets timm's classes."""
        return _new_backbone, (type(self),), self.__dict__

    def shapes_at(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return (C_j, H_j, W_j) of every map for images of `size`; call it before images of this size come.

        Raises:
            InputError: The network does not take this size.
        """
        if self.fixed and size != self.size:
            raise InputError(f"backbone {self.name} takes one picture size only: give one --size")
        if isinstance(self.network, Transformer):
            return self.network.shapes_at(size)
        with torch.inference_mode():
            return [tuple(m.shape[1:]) for m in self(torch.zeros(1, 3, *size, device=self.mean.device))]

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return a feature map `[B, C_j, H_j, W_j]` per chosen stage of images `[B, 3, H, W]` in 0..1."""
        images = (images - self.mean) / self.std
        maps = self.network(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)


def _pretrained_facts(network: nn.Module) -> Json:
    """Return the facts that timm keeps about a network's pretrained weights."""
    return cast("Json", network.pretrained_cfg)


def _new_backbone(kind: type[Backbone]) -> Backbone:
    import_timm()
    return kind.__new__(kind)


def load_backbone(
    name: str,
    stages: tuple[int, ...],
    size: tuple[int, int],
    weights: str | Path | None = None,
) -> tuple[Backbone, dict[str, str]]:
    """Build a backbone with its pretrained weights.

    Args:
        name: Any timm model.
        stages: Feature indices, in timm's numbers.
        size: (H, W) of the images that it will see.
        weights: A safetensors file, or a checkpoint that opens with `weights_only=True`; None: the weights
            that `weights.locate` finds.

    Returns:
        The backbone, and the weights' name, origin and licence.

    Raises:
        InputError: The model or a stage is unknown, no weights are found, or a file does not fit.
    """
    timm = import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise InputError(f"timm {timm.__version__} has no backbone called {name}{hint}")
    found = locate(name, weights)
    licence = found.licence
    if found.path is None:
        network = _fetch(name, stages, size)
        licence = _pretrained_facts(network).get("license") or licence
    else:
        wanted = _meta_network(name).state_dict()
        state = _fill_absent(_read_weights(found.path, wanted, found.packaged), wanted)
        given = {"pretrained_cfg_overlay": {"state_dict": state}, "pretrained": True}
        network = _create(name, stages, size, **given)
        _check_filled(network, found.path.name, name, stages)
    backbone = _folded(name, stages, size, network)
    return backbone, {"name": name, "origin": found.origin, "licence": licence}


def _read_weights(path: Path, wanted: dict[str, Tensor], packaged: bool) -> dict[str, Tensor]:
    """Read the tensors of a file; packaged tensors are named by the order of `wanted`, timm's network's."""
    if path.suffix == ".onnx":
        return read_graph(path)
    state = _read_checkpoint(path)
    return _rename_by_order(state, wanted) if packaged else state


def _fill_absent(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a network wants; absent ones are NaN, or 0 if they hold whole numbers."""
    filled = {}
    for key, value in wanted.items():
        if key in state and (state[key].shape == value.shape or "pos_embed" in key):
            filled[key] = state[key]
        else:
            absent = torch.nan if value.is_floating_point() else 0
            filled[key] = torch.full(value.shape, absent, dtype=value.dtype)
    return filled


def _check_filled(network: nn.Module, file_name: str, name: str, stages: tuple[int, ...]) -> None:
    """Raise InputError for a network whose stages use tensors that the file of its weights lacks."""
    unfilled = [k for k, v in network.state_dict().items() if v.is_floating_point() and v.isnan().any()]
    if unfilled:
        raise InputError(
            f"{file_name} lacks {pluralize(len(unfilled), 'tensor')} that {name} needs for stages "
            f"{','.join(map(str, stages))}, first {unfilled[0]}: choose other stages or another file"
        )


def empty_backbone(
    name: str,
    stages: tuple[int, ...],
    size: tuple[int, int],
    tensors: Mapping[str, Tensor],
    prefix: str = "backbone.",
) -> Backbone:
    """Build the backbone of a model file as `load_backbone` does, without its weights.

    Args:
        name: Any timm model.
        stages: Feature indices, in timm's numbers.
        size: (H, W) of the images that it will see.
        tensors: Tensors of the file. Those whose names begin with the prefix must hold as many numbers as the
            network has: a small file cannot allocate gigabytes by naming a large network.
        prefix: Beginning of the names of the backbone's tensors.

    Raises:
        InputError: timm does not have the model, or the file's tensors are too few.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise InputError(
            f"the model needs backbone {name}, which timm {timm.__version__} here does not have: upgrade timm"
        )
    held = sum(t.numel() for key, t in tensors.items() if key.startswith(prefix) and t.ndim > 1)
    if held < _element_count(name, stages, size):
        raise InputError(f"the model's tensors are too few for its backbone {name}: fit anew")
    return _folded(name, stages, size, _create(name, stages, size, pretrained=False))


def _folded(name: str, stages: tuple[int, ...], size: tuple[int, int], network: nn.Module) -> Backbone:
    """Return the backbone of a network, with batch normalisation folded into its convolutions."""
    backbone = Backbone(name, stages, size, network)
    fold_batch_norm(backbone.network, torch.zeros(1, 3, *size))
    return backbone


def stored_backbone(
    name: str,
    stages: tuple[int, ...],
    size: tuple[int, int],
    tensors: Mapping[str, Tensor],
    prefix: str = "backbone.",
) -> Backbone:
    """Build the backbone of a model file with its weights.

    Args:
        name: Any timm model.
        stages: Feature indices, in timm's numbers.
        size: (H, W) of the images that it will see.
        tensors: Tensors of the file, by their names.
        prefix: Beginning of the names of the backbone's tensors.

    Raises:
        InputError: timm does not have the model, or the tensors' names or shapes are not the network's.
    """
    backbone = empty_backbone(name, stages, size, tensors, prefix)
    backbone_tensors = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    try:
        backbone.load_state_dict(backbone_tensors)
    except RuntimeError:
        raise InputError(f"the model's tensors are not those of its backbone {name}: fit anew") from None
    return backbone


class _LinspaceOnCpu(TorchFunctionMode):
    """Mode that keeps `torch.linspace` on the CPU: timm computes with its values to build a network."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Json | None = None,
    ) -> object:
        return func(*args, **({"device": "cpu"} if func is torch.linspace else {}) | (kwargs or {}))


def _meta_network(name: str) -> nn.Module:
    """Return the network with names and shapes only."""
    with torch.device("meta"), _LinspaceOnCpu():
        network: nn.Module = import_timm().create_model(name, pretrained=False)
    return network


@cache
def _is_transformer(name: str) -> bool:
    # timm's names tell most others, which takes no time
    return "vit" in name and is_transformer(_meta_network(name))


@cache
def _element_count(name: str, stages: tuple[int, ...], size: tuple[int, int]) -> int:
    """Return the number of elements in tensors of at least two dimensions, which folding keeps.

    Nothing is allocated for it.
    """
    with torch.device("meta"), _LinspaceOnCpu():
        network = _create(name, stages, size, pretrained=False)
    return sum(tensor.numel() for tensor in network.state_dict().values() if tensor.ndim > 1)


def _create(name: str, stages: tuple[int, ...], size: tuple[int, int], **kwargs: object) -> nn.Module:
    timm = import_timm()
    extra: Json = {}
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        extra["img_size"] = size  # transformers: position embeddings follow the picture
    with warnings.catch_warnings(), _quiet_logger("timm"):  # "unexpected keys" are of unused stages
        warnings.simplefilter("ignore")
        try:
            if _is_transformer(name):
                return Transformer(timm.create_model(name, num_classes=0, **kwargs), stages)
            return _drop_unused_blocks(
                timm.create_model(name, features_only=True, out_indices=stages, **extra, **kwargs)
            )
        except (AssertionError, IndexError, ValueError) as error:
            raise InputError(
                f"backbone {name} cannot give stages {','.join(map(str, stages))} at {size[0]}x{size[1]} "
                f"({error}): choose other stages or another --size"
            ) from None
        except RuntimeError as error:
            raise InputError(
                f"these weights do not fit backbone {name}: {str(error).splitlines()[0]}"
            ) from None


def _drop_unused_blocks(network: nn.Module) -> nn.Module:
    """Drop the blocks after the last chosen stage, which timm's EfficientNets would compute too."""
    blocks = getattr(network, "blocks", None)
    used = getattr(network, "_stage_out_idx", None)
    if isinstance(blocks, nn.Sequential) and used:
        network.blocks = blocks[: max(used)]  # counted from 1; 0 is the stem
    return network


def _fetch(name: str, stages: tuple[int, ...], size: tuple[int, int]) -> nn.Module:
    """Build the network with the weights that timm has cached or downloads."""
    try:
        return _create(name, stages, size, pretrained=True)
    except OSError as error:  # the hub's and urllib's errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot get the weights of backbone {name} from its hub ({reason}): copy its checkpoint here "
            "and give it with --set weights=FILE"
        ) from None


@contextmanager
def _quiet_logger(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    state = _open_checkpoint(path)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no tensors: give a safetensors file or a plain checkpoint")
    tensors = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _open_checkpoint(path: Path) -> object:
    """Load a file of weights without running its code; raise InputError where it cannot be opened."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot read weights {path}: {reason}; give a safetensors file or a plain checkpoint"
        ) from None


def _rename_by_order(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors by position; raise InputError unless every shape agrees."""
    source = [k for k in state if not k.endswith("num_batches_tracked")]
    target = [k for k in wanted if not k.endswith("num_batches_tracked")]
    if [state[k].shape for k in source] != [wanted[k].shape for k in target]:
        raise InputError("the packaged weights do not have this backbone's layout: install timm >= 1.0.9")
    return {t: state[s] for s, t in zip(source, target, strict=True)}


def fold_batch_norm(network: nn.Module, example: Tensor) -> int:
    """Fold every batch normalisation that directly follows a convolution into it; return their number.

    This is exact in real arithmetic, and halves the time of EfficientNet-Lite on a CPU. The order of the
    layers is observed in a forward pass: it holds for any architecture. A convolution whose output is also
    read elsewhere (the shortcuts of pre-activation networks) keeps its normalisation.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    if not any(isinstance(m, nn.BatchNorm2d) for m in layers):
        return 0
    pairs = _find_normalised(network, layers, example)
    names = {m: n for n, m in network.named_modules()}
    for norm, conv in pairs:
        merged = fuse_conv_bn_eval(conv.double(), norm.double()).float()
        conv.weight = merged.weight
        conv.bias = merged.bias
        parent, _, child = names[norm].rpartition(".")
        setattr(network.get_submodule(parent), child, _rest_of(norm))
    return len(pairs)


def _find_normalised(
    network: nn.Module, layers: Sequence[nn.Module], example: Tensor
) -> list[tuple[nn.BatchNorm2d, nn.Conv2d]]:
    """Find the normalisations that can be folded, each with its convolution.

    It alone reads the convolution's output, and both are used once in a pass of `example`. Shared layers, and
    convolutions whose plain output is needed, are left out.
    """
    producer: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps outputs alive, so ids stay unique
    uses: Counter[nn.Module] = Counter()
    reads: Counter[int] = Counter()
    pairs: list[tuple[nn.BatchNorm2d, nn.Conv2d, int]] = []

    def observe(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        uses[module] += 1
        if isinstance(module, nn.Conv2d):
            producer[id(output)] = (module, output)
        elif id(inputs[0]) in producer:
            pairs.append((module, producer[id(inputs[0])][0], id(inputs[0])))  # type: ignore[arg-type]

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: Json | None = None,
        ) -> object:
            reads.update(id(value) for value in tree_leaves((args, kwargs)) if id(value) in producer)
            return func(*args, **(kwargs or {}))

    hooks = [m.register_forward_hook(observe) for m in layers]
    with torch.no_grad(), Reads():
        reads.update(map(id, tree_leaves(network(example))))
    for hook in hooks:
        hook.remove()
    used_once = [(n, c) for n, c, between in pairs if uses[n] == uses[c] == reads[between] == 1]
    return [(n, c) for n, c in used_once if n.running_var is not None and n.running_mean is not None]


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the layers that remain of a folded normalisation: timm's BatchNormAct2d holds an activation."""
    rest = nn.Sequential(getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity()))
    kept = [m for m in rest if not isinstance(m, nn.Identity)]
    if not kept:
        return nn.Identity()
    return kept[0] if len(kept) == 1 else nn.Sequential(*kept)
