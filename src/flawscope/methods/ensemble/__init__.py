"""Ensemble: several fitted detectors that judge a picture together, with one calibration on what they say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from flawscope.config import parse_assignments
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.method import Method, deferred
from flawscope.methods.settings import AUTO, PictureSettings, Rule

NAME = "ensemble"
SHARED_SETTINGS = {field.name for field in fields(PictureSettings)} - {"size"}  # of all members


@dataclass(frozen=True)
class Config(PictureSettings):
    """Settings of an ensemble.

    A member is written as its method and its settings, `patchcore size=256+384`. It has its own picture size;
    how pictures are read, the precision and the seed are the ensemble's.
    """

    size: str = "512"  # of the pictures that the members scale to theirs, and of the maps
    members: tuple[str, ...] = (
        "patchcore size=256+384",
        "patchcore size=512 ratio=0.01",
        "prnet size=256 steps=400",
    )
    decides: str = "patchcore"  # method whose members make the score; all members, where none is of it
    outlines: str = "prnet"  # method whose probability weights the map of the others; none of it: their mean
    held_out: float = 0.1  # share of the good pictures kept for calibration, 10 at least
    memory: float = 2.0  # GiB of pictures kept at a time

    def rules(self) -> Iterable[Rule]:
        yield len(self.members) >= 2, "members must be two at least, such as [patchcore, prnet steps=400]"
        yield 0 < self.held_out <= 0.5, "held_out must be above 0 and at most 0.5"
        yield self.memory > 0, "memory must be a number of GiB above 0"
        for text, (_, config) in zip(self.members, self.each(), strict=True):
            whole = config.size != AUTO and config.crop is None and config.tells_positions_apart is False
            yield whole, f"members: {text!r:.60} must name its size, without crop, and share positions"

    @property
    def deciding_members(self) -> list[int]:
        """Numbers of the members whose scores count."""
        return self._members_of(self.decides) or [*range(len(self.members))]

    @property
    def outlining_members(self) -> list[int]:
        """Numbers of the members whose maps weight those of the others; none where there are no others."""
        found = self._members_of(self.outlines)
        return found if len(found) < len(self.members) else []

    def _members_of(self, method: str) -> list[int]:
        return [k for k, text in enumerate(self.members) if text.split()[0] == method]

    def each(self) -> list[tuple[Method, PictureSettings]]:
        """The method and the settings of each member. InputError names what is wrong in which."""
        return [self._member(text) for text in self.members]

    def _member(self, text: str) -> tuple[Method, PictureSettings]:
        try:
            name, *pairs = shlex.split(text) or [""]
            method, values = registry.method(name), parse_assignments(pairs)
            if method.name == NAME or SHARED_SETTINGS & set(values):
                what = sorted(SHARED_SETTINGS & set(values)) or [NAME]
                raise InputError(f"leave out {', '.join(what)}: it is for the ensemble alone")
            config = registry.configure(method, values.pop("preset", "default"), values)
        except (InputError, ValueError) as error:  # ValueError: a quotation mark without another
            raise InputError(f"setting members: {text!r:.60}: {error}") from None
        common = {key: getattr(self, key) for key in SHARED_SETTINGS}
        # pictures come to it whole: where they are fitted in, the padding is marked already
        return method, replace(config, **{**common, "keep_aspect": False, "crop": None, "masked": self.pads})


def format_member(method: Method, config: PictureSettings) -> str:
    """Format a member as `Config.members` has it, with all its settings; of files the names alone."""
    words = [method.name]
    for key, value in asdict(config).items():
        if key not in SHARED_SETTINGS:
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            words.append(shlex.quote(f"{key}={text.rpartition('/')[2] if key in config.PATHS else text}"))
    return " ".join(words)


def _operators() -> Mapping[Any, Any]:
    """Collect those of all methods: any can be a member."""
    found: dict[Any, Any] = {}
    for method in registry.loadable_methods():
        if method.name != NAME and method.operators is not None:
            found |= method.operators()
    return found


METHOD = Method(
    name=NAME,
    paper="several methods together",
    config=Config,
    presets={"default": {}, "accurate": {}},
    create=deferred("flawscope.methods.ensemble.model:Model.create"),
    rebuild=deferred("flawscope.methods.ensemble.model:Model.rebuild"),
    fit=deferred("flawscope.methods.ensemble.fit:fit"),
    holds_out=True,
    calibrated=("normal",),
    takes_seen_defects=True,
    operators=_operators,
)
