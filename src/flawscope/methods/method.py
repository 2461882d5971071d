"""Method: the record by which a method declares itself. Torch is imported when the method is first run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flawscope import config as settings
from flawscope.errors import InputError
from flawscope.methods.settings import PictureSettings, apply_tile_scale, round_to_patches

if TYPE_CHECKING:
    from torch import Tensor

    from flawscope.methods.detector import Detector
    from flawscope.methods.task import AutoSettingsTask, Fitted, Task

WeightsOrigin = dict[str, str]  # name, origin and licence of pretrained weights


@dataclass(frozen=True)
class Option:
    """A flag of `flawscope fit` for a setting that this method has: `--teacher` sets `teacher`."""

    flag: str
    metavar: str
    help: str

    @property
    def setting(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class Command:
    """A command of the method's own: a module with `add_arguments(parser)` and `run(args) -> exit code`; or
    with `NAME_arguments` and `NAME`, where it has several."""

    name: str
    help: str
    module: str


@dataclass(frozen=True)
class Method:
    """A method and what it can do. Nothing is guessed from the names of its settings.

    Attributes:
        name: as `--method` takes it and as model files store it.
        paper: where it was published.
        config: its settings, a frozen dataclass; importing it loads no torch.
        create: builds an untrained detector of settings and `roi`, [H, W] bool at the network's size or None,
            and says where its pretrained weights came from. Use `deferred` for this and all other functions,
            so that declaring a method costs nothing.
        rebuild: builds the detector that a model file describes, of its settings and its tensors. InputError
            where they do not fit each other.
        fit: fits a detector in place and calibrates it.
        presets: named sets of settings. `default` must be among them.
        learns_in_steps: takes `--steps`, `--minutes` and `--resume`, and keeps a checkpoint. Its settings are
            a `TrainingSettings`.
        holds_out: keeps some good pictures back for calibration, first of all those that a data set sets
            apart (`Task.divide`). Otherwise it calibrates by leaving out the pictures that it learns from.
        calibrated: names of the detector's tensors that held-out pictures decide, such as quantiles of its
            maps. No other tensor may depend on them.
        takes_seen_defects: learns from real defects too (`--seen`).
        finds_suspects: points out training pictures that do not look good, and can drop them.
        extends: pictures can be added to a fitted model (`--update`).
        fits_in_parts: parts of the work can be done by `Task.workers`, on a cluster.
        joins: models of several products can share one backbone (`--joint`): nothing in it is learnt, and the
            detector gives descriptors.
        peak: predicts the peak memory of the process that fits, in bytes; None: unknown.
        choose: gives the settings with the next one that is `auto` decided by good pictures, `size` before
            there is a detector, others after; None: no setting can be `auto`.
        candidates: settings from the most accurate to the fastest; `fit --latency` takes the first that are
            fast enough. `preset` names a preset, `method` another method.
        rehearse: gives the settings that change where only a share of the pictures is learnt and the model is
            to take a picture's time all the same.
        options: flags of `flawscope fit` for its own settings.
        commands: its own commands.
        operators: gives {torch operator: its ONNX translation} for operators that the exporter does not know.
    """

    name: str
    paper: str
    config: type[PictureSettings]
    create: Callable[..., tuple[Detector, WeightsOrigin]]
    rebuild: Callable[[dict[str, Any], dict[str, Tensor]], Detector]
    fit: Callable[[Any, Task], Fitted]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"default": {}})
    learns_in_steps: bool = False
    holds_out: bool = False
    calibrated: Sequence[str] = ()
    takes_seen_defects: bool = False
    finds_suspects: bool = False
    extends: bool = False
    fits_in_parts: bool = False
    supports_joint: bool = False
    predict_peak: Callable[[Any, Task], int] | None = None
    choose: Callable[[Any, AutoSettingsTask], Any] | None = None
    candidates: Sequence[Mapping[str, Any]] = ()
    rehearse: Callable[[Any, float], Mapping[str, Any]] | None = None
    options: Sequence[Option] = ()
    commands: Sequence[Command] = ()
    operators: Callable[[], Mapping[Any, Any]] | None = None

    def configure(self, preset: str = "default", values: Mapping[str, Any] | None = None) -> Any:
        """Settings of the preset, then `values`. InputError names the wrong setting."""
        if preset not in self.presets:
            raise InputError(f"{self.name} has no preset {preset}: choose one of {', '.join(self.presets)}")
        found = apply_tile_scale(self.presets[preset], values or {})
        return settings.build_config(self.config, round_to_patches(self.config, found))

    def run_fit(self, model: Detector, task: Task) -> Fitted:
        """Fit `model`. A method that holds pictures out gets pictures from `Task.divide` alone."""
        return self.fit(model, task.without_load() if self.holds_out else task)

    def parse_stored(self, values: Mapping[str, Any]) -> Any:
        """Settings as a model file holds them. Settings that have since gone are ignored."""
        return settings.build_config(self.config, settings.keep_known_settings(self.config, values))


def deferred(where: str) -> Callable[..., Any]:
    """The function `package.module:name`, or `...:Class.name`, imported when it is first called."""
    module, _, path = where.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        return found(*args, **kwargs)

    call.__doc__ = f"Calls {where}."
    return call
