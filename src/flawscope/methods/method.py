"""Method: the record by which a method declares itself. Torch is imported when the method is first run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flawscope.config import build_config, keep_known_settings
from flawscope.errors import InputError
from flawscope.methods.settings import PictureSettings, TrainingSettings, apply_tile_scale

if TYPE_CHECKING:
    from torch import Tensor

    from flawscope.methods.detector import Detector
    from flawscope.methods.task import Fitted, Task
    from flawscope.types import Json

WeightsOrigin = dict[str, str]  # name, origin and licence of pretrained weights


@dataclass(frozen=True)
class Option:
    """Flag of `flawscope fit` for a setting of a method: `--augment` sets `augment`."""

    flag: str
    metavar: str
    help: str

    @property
    def setting(self) -> str:
        """Name of the setting."""
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class Method:
    """Method of anomaly detection: its functions and its abilities.

    Attributes:
        name: Name on the command line (`--method`) and in model files.
        config: Its settings, a frozen dataclass; importing it loads no torch.
        create: Builds an untrained detector from settings and `roi`, which is `[H, W]` bool at the network's
            size, or None; returns it with the origin of its pretrained weights. Make this and all other
            functions by `deferred`, which loads nothing when a method is declared.
        rebuild: Builds the detector of a model file from the file's settings and tensors; raises InputError
            where they do not fit each other.
        fit: Fits a detector in place and calibrates it.
        presets: Named sets of settings. `default` must be among them.
        holds_out: Whether it holds some good pictures out for calibration (`Task.divide`), first of all those
            that a data set sets apart. A method that holds none out is calibrated by the pictures it learns
            from, each scored as if it had been left out.
        takes_seen_defects: Whether it learns from real defects too (`--seen`).
        finds_suspects: Whether it points out training pictures that do not look good, and can drop them.
        extends: Whether pictures can be added to a fitted model (`--update`).
        predict_peak: Predicts the peak memory of the process that fits, in bytes; None: unknown.
        options: Flags of `flawscope fit` for its own settings.
        create_like: Builds an untrained detector with the pretrained networks of a fitted model, from
            settings, `roi` and that model's tensors; the settings are the model's. Raises InputError where
            the model's file lacks something that a fit needs. None: `create` makes the same networks again,
            and needs no file of the user's.
    """

    name: str
    config: type[PictureSettings]
    create: Callable[..., tuple[Detector, WeightsOrigin]]
    rebuild: Callable[[Json, dict[str, Tensor]], Detector]
    fit: Callable[[Any, Task], Fitted]
    presets: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"default": {}})
    holds_out: bool = False
    takes_seen_defects: bool = False
    finds_suspects: bool = False
    extends: bool = False
    predict_peak: Callable[[Any, Task], int] | None = None
    options: Sequence[Option] = ()
    create_like: Callable[..., Detector] | None = None

    @property
    def learns_in_steps(self) -> bool:
        """Whether it takes `--steps`, `--minutes` and `--resume`, and keeps a checkpoint."""
        return issubclass(self.config, TrainingSettings)

    def configure(
        self, preset: str = "default", values: Mapping[str, object] | None = None
    ) -> PictureSettings:
        """Return the preset's settings, overridden by `values`; raise InputError for a wrong setting."""
        if preset not in self.presets:
            raise InputError(f"{self.name} has no preset {preset}: choose one of {', '.join(self.presets)}")
        settings = apply_tile_scale(self.presets[preset], values or {})
        return build_config(self.config, self.config.complete(settings))

    def run_fit(self, model: Detector, task: Task) -> Fitted:
        """Fit `model`. A method that holds pictures out gets pictures only from `Task.divide`."""
        return self.fit(model, task.without_load() if self.holds_out else task)

    def parse_stored(self, values: Mapping[str, object]) -> PictureSettings:
        """Build the settings of a model file; settings that this version does not know are dropped.

        Raises:
            InputError: A value is wrong, or belongs to a setting that is gone.
        """
        for name, only_value in getattr(self.config, "FIXED", {}).items():
            if values.get(name, only_value) != only_value:
                raise InputError(f"the model's {name} is {values[name]!r:.30}, which is gone: fit anew")
        return build_config(self.config, keep_known_settings(self.config, values))


def not_in_model_error(setting: str, name: str) -> InputError:
    """Return the error for a fit that cannot be repeated: its model does not contain a file that it read.

    Args:
        setting: The setting that names the file or folder.
        name: Name of the file or folder, for the message; it is not searched for.
    """
    return InputError(
        f"the model learnt with {name} ({setting}), which is not in its file: train it anew with "
        f"`flawscope fit ... --set {setting}=PATH`"
    )


def deferred(where: str) -> Callable[..., Any]:
    """Return a stand-in that imports a function when it is called, and calls that function.

    Args:
        where: Place of the function: `package.module:name` or `package.module:Class.name`.
    """
    module, _, path = where.partition(":")

    def call(*args: object, **kwargs: object) -> object:
        target: Any = importlib.import_module(module)
        for name in path.split("."):
            target = getattr(target, name)
        return target(*args, **kwargs)

    call.__doc__ = f"Call {where}."
    return call
