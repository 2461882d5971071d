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
    torchvision then fails because two operators of its extension are unknown. timm only needs torchvision's
    transforms of pictures: it is enough to declare the two operators, which nobody calls.
    """
    if "timm" not in sys.modules:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            torchvision_names = [name for name in sys.modules if name.split(".")[0] == "torchvision"]
            for name in torchvision_names:
                del sys.modules[name]  # so that the import below tries again
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

    It is frozen: no parameter takes a gradient, and `train()` leaves it in eval mode, so that batch
    normalisation never drifts. Stages have timm's numbers: in convolutional networks stage j has stride
    2**(j + 1) (ResNet's layer2 is stage 2), in transformers stages are numbers of blocks.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, stages: tuple[int, ...], size: tuple[int, int], network: nn.Module):
        super().__init__()
        self.name = name
        self.stages = stages
        self.size = size
        self.network = network
        # Swin and similar networks give maps [B, H, W, C]
        self.channels_last = "NHWC" in str(getattr(network, "output_fmt", ""))
        facts = _pretrained_facts(network)
        imagenet_mean, imagenet_std = IMAGENET
        mean = facts.get("mean") or imagenet_mean
        std = facts.get("std") or imagenet_std
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        # `Transformer` resizes position embeddings; elsewhere they fit a single size
        self.has_fixed_size = bool(facts.get("fixed_input_size")) and not isinstance(network, Transformer)
        self.requires_grad_(False)
        self.eval()

    def __reduce__(self) -> tuple[object, ...]:
        """Return how to unpickle the backbone: timm is imported first, by `import_timm`."""
        return _new_backbone, (type(self),), self.__dict__

    def shapes_at(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return (C_j, H_j, W_j) of every map for images of `size`; call it before images of this size come.

        Raises:
            InputError: The network does not take this size.
        """
        if self.has_fixed_size and size != self.size:
            raise InputError(f"backbone {self.name} takes one picture size only: give one --size")
        if isinstance(self.network, Transformer):
            return self.network.shapes_at(size)
        with torch.inference_mode():
            example = torch.zeros(1, 3, *size, device=self.mean.device)
            return [tuple(stage_map.shape[1:]) for stage_map in self(example)]

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode, whatever `mode` is."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return a feature map `[B, C_j, H_j, W_j]` per chosen stage of images `[B, 3, H, W]` in 0..1."""
        images = (images - self.mean) / self.std
        maps = self.network(images)
        if self.channels_last:
            return [stage_map.permute(0, 3, 1, 2) for stage_map in maps]
        return list(maps)


def _pretrained_facts(network: nn.Module) -> Json:
    """Return the facts that timm keeps about a network's pretrained weights."""
    return cast("Json", network.pretrained_cfg)


def _new_backbone(backbone_class: type[Backbone]) -> Backbone:
    """Return an empty backbone for pickle to fill, after the import of timm."""
    import_timm()
    return backbone_class.__new__(backbone_class)


def load_backbone(
    name: str,
    stages: tuple[int, ...],
    size: tuple[int, int],
    weights: str | Path | None = None,
) -> tuple[Backbone, dict[str, str]]:
    """Build a backbone with its pretrained weights.

    Args:
        name: Name of a timm model.
        stages: Numbers of the chosen stages, as timm counts them.
        size: (H, W) of the images that the backbone will see.
        weights: A safetensors file, or a checkpoint that opens with `weights_only=True`; None: the weights
            that `weights.locate` finds.

    Returns:
        The backbone, and the weights' name, origin and licence.

    Raises:
        InputError: The model or a stage is unknown, no weights are found, or a file does not fit.
    """
    timm = import_timm()
    if not timm.is_model(name):
        close_names = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"; near: {', '.join(close_names)}" if close_names else ""
        raise InputError(f"timm {timm.__version__} has no backbone called {name}{hint}")
    source = locate(name, weights)
    licence = source.licence
    if source.path is None:
        network = _fetch(name, stages, size)
        licence = _pretrained_facts(network).get("license") or licence
    else:
        network_tensors = _meta_network(name).state_dict()
        file_tensors = _read_weights(source.path, network_tensors, source.packaged)
        state = _fill_absent(file_tensors, network_tensors)
        network = _create(name, stages, size, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
        _check_filled(network, source.path.name, name, stages)
    backbone = _fold_network(name, stages, size, network)
    return backbone, {"name": name, "origin": source.origin, "licence": licence}


def _read_weights(path: Path, network_tensors: dict[str, Tensor], is_packaged: bool) -> dict[str, Tensor]:
    """Read the tensors of a file of weights, under timm's names.

    Args:
        path: The file.
        network_tensors: Tensors of timm's network, whose names and order packaged weights get.
        is_packaged: Whether the file comes from a package of weights.
    """
    if path.suffix == ".onnx":
        return read_graph(path)
    tensors = _read_checkpoint(path)
    return _rename_by_order(tensors, network_tensors) if is_packaged else tensors


def _fill_absent(file_tensors: dict[str, Tensor], network_tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a tensor for every name of a network: the file's tensor of this name, if its shape fits.

    The other tensors are filled with NaN, or with 0 if they hold integers.
    """
    state = {}
    for name, network_tensor in network_tensors.items():
        file_tensor = file_tensors.get(name)
        # timm resizes position embeddings itself
        if file_tensor is not None and (file_tensor.shape == network_tensor.shape or "pos_embed" in name):
            state[name] = file_tensor
        else:
            absent_value = torch.nan if network_tensor.is_floating_point() else 0
            state[name] = torch.full(network_tensor.shape, absent_value, dtype=network_tensor.dtype)
    return state


def _check_filled(network: nn.Module, file_name: str, name: str, stages: tuple[int, ...]) -> None:
    """Raise InputError for a network whose stages use tensors that the file of its weights lacks.

    Such tensors hold NaN (`_fill_absent`).
    """
    unfilled = [
        key
        for key, tensor in network.state_dict().items()
        if tensor.is_floating_point() and tensor.isnan().any()
    ]
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
        name: Name of a timm model.
        stages: Numbers of the chosen stages, as timm counts them.
        size: (H, W) of the images that the backbone will see.
        tensors: Tensors of the file. Those of the backbone must hold at least as many numbers as the network
            has, since a small file that names a large network must not make this process allocate gigabytes.
        prefix: Beginning of the names of the backbone's tensors.

    Raises:
        InputError: timm does not have the model, or the file's tensors are too few.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise InputError(
            f"the model needs backbone {name}, which timm {timm.__version__} here does not have: upgrade timm"
        )
    # without vectors, as in `_network_element_count`
    element_count = sum(
        tensor.numel() for key, tensor in tensors.items() if key.startswith(prefix) and tensor.ndim > 1
    )
    if element_count < _network_element_count(name, stages, size):
        raise InputError(f"the model's tensors are too few for its backbone {name}: fit anew")
    return _fold_network(name, stages, size, _create(name, stages, size, pretrained=False))


def _fold_network(name: str, stages: tuple[int, ...], size: tuple[int, int], network: nn.Module) -> Backbone:
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
        name: Name of a timm model.
        stages: Numbers of the chosen stages, as timm counts them.
        size: (H, W) of the images that the backbone will see.
        tensors: Tensors of the file, by their names.
        prefix: Beginning of the names of the backbone's tensors.

    Raises:
        InputError: timm does not have the model, or the tensors' names or shapes are not the network's.
    """
    backbone = empty_backbone(name, stages, size, tensors, prefix)
    backbone_tensors = {
        key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)
    }
    try:
        backbone.load_state_dict(backbone_tensors)
    except RuntimeError:
        raise InputError(f"the model's tensors are not those of its backbone {name}: fit anew") from None
    return backbone


class _LinspaceOnCpu(TorchFunctionMode):
    """Mode in which `torch.linspace` makes real tensors on the CPU: timm reads them to build a network."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Json | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.linspace:
            kwargs = {"device": "cpu", **kwargs}
        return func(*args, **kwargs)


def _meta_network(name: str) -> nn.Module:
    """Return timm's network on torch's meta device: its tensors have names and shapes, but no memory."""
    with torch.device("meta"), _LinspaceOnCpu():
        network: nn.Module = import_timm().create_model(name, pretrained=False)
    return network


@cache
def _is_transformer(name: str) -> bool:
    # the name rules out most networks, without the time to build one
    return "vit" in name and is_transformer(_meta_network(name))


@cache
def _network_element_count(name: str, stages: tuple[int, ...], size: tuple[int, int]) -> int:
    """Count the elements of a network's tensors that have two dimensions or more.

    Folding of batch normalisation keeps these tensors. No memory is allocated for the network.
    """
    with torch.device("meta"), _LinspaceOnCpu():
        network = _create(name, stages, size, pretrained=False)
    return sum(tensor.numel() for tensor in network.state_dict().values() if tensor.ndim > 1)


def _create(name: str, stages: tuple[int, ...], size: tuple[int, int], **kwargs: object) -> nn.Module:
    """Build timm's network with the chosen stages as outputs.

    Args:
        name: Name of a timm model.
        stages: Numbers of the chosen stages, as timm counts them.
        size: (H, W) of the images that the network will see.
        **kwargs: Further arguments of timm's `create_model`.

    Raises:
        InputError: The network cannot give the stages at this size, or the weights do not fit.
    """
    timm = import_timm()
    size_argument: Json = {}
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        size_argument["img_size"] = size  # timm makes position embeddings for this size
    # timm would warn of "unexpected keys": the tensors of stages that are not chosen
    with warnings.catch_warnings(), _quiet_logger("timm"):
        warnings.simplefilter("ignore")
        try:
            if _is_transformer(name):
                return Transformer(timm.create_model(name, num_classes=0, **kwargs), stages)
            return _drop_unused_blocks(
                timm.create_model(name, features_only=True, out_indices=stages, **size_argument, **kwargs)
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
    output_indices = getattr(network, "_stage_out_idx", None)  # 0 is the stem, 1 the first block
    if isinstance(blocks, nn.Sequential) and output_indices:
        network.blocks = blocks[: max(output_indices)]
    return network


def _fetch(name: str, stages: tuple[int, ...], size: tuple[int, int]) -> nn.Module:
    """Build timm's network with weights that timm has cached or downloads.

    Raises:
        InputError: The download fails, or the network cannot be built (`_create`).
    """
    try:
        return _create(name, stages, size, pretrained=True)
    except OSError as error:  # the hub's and urllib's errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot get the weights of backbone {name} from its hub ({reason}): copy its checkpoint here "
            "and give it with --set weights=FILE"
        ) from None


@contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    """Let a logger report only errors within this context."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of weights; floating-point tensors become float32.

    Raises:
        InputError: The file cannot be opened, or holds no tensors.
    """
    content = _open_checkpoint(path)
    for key in ("state_dict", "model"):  # checkpoints of trainings nest the tensors
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    items = content.items() if isinstance(content, dict) else ()
    tensors = {name.removeprefix("module."): item for name, item in items if isinstance(item, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors: give a safetensors file or a plain checkpoint")
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


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


def _rename_by_order(
    file_tensors: dict[str, Tensor], network_tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return a file's tensors under a network's names; the k-th tensor gets the k-th name.

    Raises:
        InputError: The shapes are not the network's.
    """
    file_names = [name for name in file_tensors if not name.endswith("num_batches_tracked")]
    network_names = [name for name in network_tensors if not name.endswith("num_batches_tracked")]
    file_shapes = [file_tensors[name].shape for name in file_names]
    if file_shapes != [network_tensors[name].shape for name in network_names]:
        raise InputError("the packaged weights do not have this backbone's layout: install timm >= 1.0.9")
    return {
        network_name: file_tensors[file_name]
        for file_name, network_name in zip(file_names, network_names, strict=True)
    }


def fold_batch_norm(network: nn.Module, example: Tensor) -> int:
    """Fold every batch normalisation that directly follows a convolution into the convolution.

    This is exact in real arithmetic, and halves the time of EfficientNet-Lite on a CPU. It works for any
    architecture, because a forward pass shows the order of the layers. A convolution whose output is also
    read elsewhere (the shortcuts of pre-activation networks) keeps its normalisation.

    Args:
        network: The network, which is changed.
        example: Images for the forward pass.

    Returns:
        The number of normalisations that were folded.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in layers):
        return 0
    pairs = _find_foldable(network, layers, example)
    names = {module: name for name, module in network.named_modules()}
    for norm, conv in pairs:
        merged = fuse_conv_bn_eval(conv.double(), norm.double()).float()
        conv.weight = merged.weight
        conv.bias = merged.bias
        parent_name, _, child_name = names[norm].rpartition(".")
        setattr(network.get_submodule(parent_name), child_name, _remaining_layers(norm))
    return len(pairs)


def _find_foldable(
    network: nn.Module, layers: Sequence[nn.Module], example: Tensor
) -> list[tuple[nn.BatchNorm2d, nn.Conv2d]]:
    """Find the normalisations that can be folded, each with its convolution.

    The normalisation must be the only reader of the convolution's output, and both must run exactly once in a
    forward pass of `example`. This excludes layers that are used several times, and convolutions whose plain
    output is needed.
    """
    # id of a convolution's output -> the convolution and the output, which stays alive: no id is used twice
    conv_outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    run_counts: Counter[nn.Module] = Counter()
    read_counts: Counter[int] = Counter()  # id of a convolution's output -> number of its readers
    # normalisation, convolution, and id of the convolution's output
    pairs: list[tuple[nn.BatchNorm2d, nn.Conv2d, int]] = []

    def observe_layer(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        run_counts[layer] += 1
        if isinstance(layer, nn.Conv2d):
            conv_outputs[id(output)] = (layer, output)
            return
        input_id = id(inputs[0])
        if input_id in conv_outputs:
            conv, _ = conv_outputs[input_id]
            pairs.append((layer, conv, input_id))  # type: ignore[arg-type]

    class CountReads(TorchDispatchMode):
        """Mode that counts how often operators read the outputs of convolutions."""

        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: Json | None = None,
        ) -> object:
            value_ids = [id(value) for value in tree_leaves((args, kwargs))]
            read_counts.update(value_id for value_id in value_ids if value_id in conv_outputs)
            return func(*args, **(kwargs or {}))

    hooks = [layer.register_forward_hook(observe_layer) for layer in layers]
    with torch.no_grad(), CountReads():
        network_outputs = tree_leaves(network(example))
    read_counts.update(id(output) for output in network_outputs)
    for hook in hooks:
        hook.remove()
    return [
        (norm, conv)
        for norm, conv, output_id in pairs
        if run_counts[norm] == run_counts[conv] == read_counts[output_id] == 1
        and norm.running_var is not None
        and norm.running_mean is not None
    ]


def _remaining_layers(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the layers that remain of a folded normalisation: timm's BatchNormAct2d holds an activation."""
    inner_layers = (getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity()))
    remaining = [layer for layer in inner_layers if not isinstance(layer, nn.Identity)]
    if not remaining:
        return nn.Identity()
    return remaining[0] if len(remaining) == 1 else nn.Sequential(*remaining)
