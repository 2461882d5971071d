"""`predict --server`: a running station judges, and remembers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flawscope.cli import common
from flawscope.cli.inputs import on_files
from flawscope.errors import InputError
from flawscope.progress import counted, silent

if TYPE_CHECKING:
    from flawscope.cli.inputs import Asked
    from flawscope.pictures.decoding import Source
    from flawscope.results.prediction import Prediction, Region
    from flawscope.station import Client
    from flawscope.station.store.inspection import Inspection

AT_ONCE = 4  # pictures on their way
ITS_OWN = ("false_alarm_rate", "engine", "device", "threads")  # what the station's own settings say


class _Server(argparse.Action):
    """After it every word is a picture, and the model is the station's."""

    def __call__(
        self, parser: argparse.ArgumentParser, args: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        setattr(args, self.dest, value)
        for action in parser._actions:
            if action.dest == "pictures":  # the first one stands where the model would
                action.required = False
            elif action.dest == "model":
                action.metavar = "PICTURE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", metavar="URL", action=_Server, help="a running station judges, instead of MODEL"
    )
    parser.add_argument("--product", metavar="NAME", help="of the station, if it has several")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the station's token (default: $FLAWSCOPE_TOKEN, if it is set)",
    )


def check(args: argparse.Namespace) -> None:
    """InputError for options that mean nothing with, or without, a station."""
    if args.server is None:
        for name in ("product", "token_file"):
            if getattr(args, name):
                raise InputError(f"--{name.replace('_', '-')} is for --server: leave it out")
        return
    for name in ITS_OWN:
        if getattr(args, name) not in (None, "auto"):
            raise InputError(f"--{name.replace('_', '-')} is the station's own with --server: leave it out")
    if args.out and not common.is_table(args.out):
        raise InputError(
            f"--out {args.out}: with --server only a table is written, FILE.csv or FILE.parquet; the station "
            "keeps the rest"
        )


def run(args: argparse.Namespace, asked: Asked, judge: Callable[..., None]) -> int:
    """Have the station judge the pictures. judge: the loop of `predict` over them."""
    from flawscope.cli.output import Output
    from flawscope.results.prediction import Mismatch
    from flawscope.station import Client

    with Client(args.server, token=_token(args)) as client:
        product = client.product(args.product)
        output = Output(args, None, at_once=not asked.total)
        together = Mismatch(product.false_alarm_rate or 0.0)
        try:
            step = common.step_for(args) if asked.total else silent
            judge(asked, Served(client, product.name, AT_ONCE), output, together, step)
        except KeyboardInterrupt:
            done = counted(together.count + len(output.failures), "input")
            raise KeyboardInterrupt(f"interrupted after {done}; the station keeps them") from None
        finally:
            output.finish({})
    if not args.quiet:
        if not args.json and together.count:
            common.say(f"{together.anomalous} of {counted(together.count, 'picture')} anomalous")
        for line in on_files(asked.several, [os.fspath(path) for path in asked.beside]):
            common.say(line)
        if line := together.line():
            common.say(f"warning: {line}")
    code = output.code
    return 3 if args.fail_on_anomaly and together.anomalous else code


@dataclass(frozen=True)
class Served:
    """A product of a station, where `predict` expects a model."""

    client: Client
    product: str
    at_once: int

    def stream(
        self, pictures: Iterable[Source], *, batch: int | None = None
    ) -> Iterator[tuple[Source, Prediction | InputError]]:
        """batch: 1 where the next picture may not exist before this one is judged."""
        workers = self.at_once if batch is None else batch
        for source, found in self.client.inspect_many(pictures, self.product, workers):
            if isinstance(found, InputError):
                yield source, found
            else:  # it has all that is printed and tabulated
                yield source, cast("Prediction", Answer.of(found))


@dataclass(frozen=True)
class Answer:
    """A prediction as far as it is printed and a station tells it; `shifts` it does not tell."""

    id: int
    product: str
    version: int
    score: float
    p_value: float
    severity: float
    is_anomalous: bool
    score_threshold: float
    regions: Sequence[Region]
    shifts: Sequence[float] = ()
    path: str | None = None

    @classmethod
    def of(cls, found: Inspection) -> Answer:
        names = [name for name in cls.__dataclass_fields__ if name not in ("shifts", "path")]
        return cls(**{name: getattr(found, name) for name in names})

    @property
    def decision(self) -> str:
        return "anomalous" if self.is_anomalous else "good"

    def to_dict(self) -> dict[str, Any]:
        """The record that `predict --json` prints."""
        return {
            **{name: getattr(self, name) for name in ("path", "score", "p_value", "severity", "decision")},
            **{name: getattr(self, name) for name in ("is_anomalous", "score_threshold")},
            "regions": [region.to_dict() for region in self.regions],
            **{name: getattr(self, name) for name in ("id", "product", "version")},
        }


def _token(args: argparse.Namespace) -> str | None:
    if not args.token_file:
        return None
    try:
        return Path(args.token_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot read --token-file {args.token_file}: {why}; check the path") from None
