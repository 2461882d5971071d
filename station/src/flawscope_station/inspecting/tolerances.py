"""Tolerances of products: a person's rules, applied after the model, and read again when their file changes.

The rules of a file are recorded as an event before they are in force. A change is in force once two looks
have read the same, so that no half-written file tolerates anything; until then the rules before it hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from typing_extensions import override

from flawscope import Prediction, Predictor
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import tolerating
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import NoModelError, ProductModel
from flawscope_station.store.records import TOLERANCES_EVENT, Store

CHECK_INTERVAL = 1.0  # seconds between two looks at the files
Stamp = list[tuple[int, ...] | None]


@dataclass
class _File:
    """File of a product's rules.

    Attributes:
        path: Path of the file.
        rules: Rules in force; None: nothing is tolerated.
        problem: Why there are no rules; "": there are.
        recorded: Text of the event about the rules in force.
        last: Text of the event for the content that was read last.
        stamp: Stamp of the files at that time.
        is_settled: Whether two looks have read that content, and it is in force.
    """

    path: Path
    rules: tolerating.Tolerances | None = None
    problem: str = ""
    recorded: str = ""
    last: str = ""
    stamp: Stamp = field(default_factory=list)
    is_settled: bool = False


class _CachedFunction(NamedTuple):
    """Function that applies rules to the predictions of a model.

    Attributes:
        model: Model whose predictions it changes.
        rules: Rules that it applies.
        function: The function; a text: why there is none.
    """

    model: Predictor
    rules: tolerating.Tolerances
    function: tolerating.Tolerate | str


class ProductTolerances(BackgroundThread):
    """Rules of all products that have a file of them, and the thread that looks at the files.

    Args:
        store: Records of the station.
        versions: Versions with their models.
        report: Gets the code of a problem, and its text; "" or None: the problem is over.
    """

    def __init__(
        self,
        store: Store,
        versions: ModelRegistry,
        report: Callable[[str, str | None], None],
    ):
        super().__init__("tolerances", is_lazy=True)
        self.store = store
        self.versions = versions
        self.report = report
        self._files: dict[int, _File] = {}  # by number of the product
        # by number of the product and name of the view
        self._functions: dict[tuple[int, str], _CachedFunction] = {}

    def add_product(self, product_id: int, name: str, settings: ProductSettings) -> None:
        """Read the rules of a product, and put them in force."""
        if settings.tolerances is None:
            return
        file = _File(Path(settings.tolerances))
        self._read(product_id, file, is_first=True)
        self._files[product_id] = file
        self.wake()

    def in_force(self, product_id: int) -> dict[str, str] | None:
        """Return version and SHA-256 of a product's rules; None: nothing is tolerated."""
        file = self._files.get(product_id)
        if file is None or file.rules is None:
            return None
        return file.rules.to_dict()

    def apply(
        self, product: ProductModel, prediction: Prediction, view: str | None = None
    ) -> tuple[Prediction, dict[str, str] | None]:
        """Apply the rules in force to a prediction.

        Args:
            product: Product with its version and model.
            prediction: Prediction of a picture.
            view: View that the picture shows.

        Returns:
            The prediction after the rules, and version and SHA-256 of the rules. If no rules can be applied:
            the prediction as it was, and None.
        """
        file = self._files.get(product.product_id)
        rules = None if file is None else file.rules
        if rules is None:
            return prediction, None
        view_name = str(view) if product.model.kind == "view" else ""
        function_or_reason = self._tolerator(
            (product.product_id, view_name), product.model.products[view_name], rules
        )
        if isinstance(function_or_reason, str):  # why the rules cannot be applied
            return prediction, None
        return function_or_reason(prediction), rules.to_dict()

    def check(self) -> None:
        """Look at all files, and report why rules are not in force."""
        for product_id, file in list(self._files.items()):
            with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
                self._read(product_id, file)
            problem = file.problem
            if file.rules is not None:
                with suppress(NoModelError):  # a product without a model is a problem of its own
                    problem = self._reason_against(product_id, file.rules)
            text = f"{problem}; nothing is tolerated" if problem else ""
            self.report(f"tolerances_{product_id}", text)

    def _reason_against(self, product_id: int, rules: tolerating.Tolerances) -> str:
        """Return why rules cannot be applied to the models of a product and its views; "": they can.

        Raises:
            NoModelError: No model of the product is open.
        """
        _, judging_model = self.versions.active(product_id)
        for view, model in judging_model.products.items():
            function_or_reason = self._tolerator((product_id, view), model, rules)
            if isinstance(function_or_reason, str):
                return function_or_reason
        return ""

    def _tolerator(
        self, key: tuple[int, str], model: Predictor, rules: tolerating.Tolerances
    ) -> tolerating.Tolerate | str:
        """Return a function that applies rules to a model's predictions, or the reason why there is none.

        Args:
            key: Number of the product, and name of the view; "": the model is not of a single view.
            model: Model of the product or view.
            rules: Rules in force.
        """
        cached = self._functions.get(key)
        # none yet, or it was made for another model or other rules
        if cached is None or cached.model is not model or cached.rules is not rules:
            try:
                if model.mm_per_pixel is None:
                    raise InputError("the model knows no sizes: fit it with --scale-mm")
                function_or_reason: tolerating.Tolerate | str = tolerating.tolerator(model, rules)
            except InputError as error:
                function_or_reason = str(error)
            cached = _CachedFunction(model, rules, function_or_reason)
            self._functions[key] = cached
        return cached.function  # or the reason why there is none

    def _read(self, product_id: int, file: _File, *, is_first: bool = False) -> None:
        """Read a product's file if it has changed, and put its rules in force after two identical looks.

        Args:
            product_id: Number of the product.
            file: File of the product's rules; it gets the new state.
            is_first: Whether the station begins: then a single look is enough.
        """
        mask_paths = () if file.rules is None else file.rules.masks
        stamp = _stamp([file.path, *mask_paths])
        if file.rules is not None and file.is_settled and file.stamp == stamp:
            return
        try:
            rules = tolerating.Tolerances.read(file.path)
            problem = ""
            event_text = f"{file.path.name}, version {rules.version}, SHA-256 {rules.sha256}"
        except FlawscopeError as error:
            rules = None
            problem = str(error)
            event_text = f"none: {problem}"
        # two identical looks show that the file is not being written any more
        is_unchanged = file.stamp == stamp and file.last == event_text
        file.stamp = stamp
        file.last = event_text
        file.is_settled = False
        if not is_unchanged and not is_first:
            return
        if event_text != file.recorded:
            self._note(product_id, event_text)
            file.rules = rules
            file.problem = problem
            file.recorded = event_text
        file.is_settled = True

    def _note(self, product_id: int, event_text: str) -> None:
        """Record which rules are in force from now on, unless the last event says so."""
        last_events = self.store.events(TOLERANCES_EVENT, product_id)[:1]
        if [event.text for event in last_events] != [event_text]:
            self.store.note_event(TOLERANCES_EVENT, "station", event_text, product_id)

    @override
    def _work(self) -> None:
        while not self._wait(CHECK_INTERVAL):
            with self.threads[0].call():
                self.check()


def _stamp(paths: list[Path]) -> Stamp:
    """Return the stamp of files, which changes with their content; it has None for each missing file."""
    stamp: Stamp = []
    for path in paths:
        try:
            status = os.stat(path)
            stamp.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        except OSError:
            stamp.append(None)
    return stamp
