"""FitOption: the record by which an option of a fit says all that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flawscope.artefact.model_file import Artefact

T = TypeVar("T")
RECORD = "option"  # key of an option's record in the metadata of its field

# Groups of the command line's help
PICTURES, VIEWS, PROMISE, METHOD, RUNNING = (
    "pictures",
    "how parts lie, and how they are seen",
    "what is promised",
    "method",
    "running",
)
# What an option is: an argument of `fit` (`arguments`), a setting of methods, or a part of the call
ARGUMENT, SETTING, CALL = "argument", "setting", "call"
# Where it may stand in a YAML file: in each category, above all of them, or nowhere
EACH, WHOLE, NOWHERE = "each", "whole", "nowhere"
# What its value is on the command line
TEXT, NUMBER, SWITCH, MINUTES, OPTIONAL_MINUTES = "text", "number", "switch", "minutes", "optional minutes"
YES_OR_NO = "yes or no"  # a switch and its opposite; without either it is found out
# What `--auto` makes of it: keeps it, tries sizes unless it is given, tries nothing, or is not changed by it
KEPT, SIZES, NOTHING, WITHOUT_EFFECT = "kept", "sizes", "nothing", "without effect"
# Which cells of `flawscope benchmark` have it: all, or those of methods that take it
ALL_CELLS, ITS_METHODS = "all cells", "its methods"


@dataclass(frozen=True, kw_only=True)
class FormField:
    """Field by which New product of a station asks for an option.

    kind: region, number, percent (of a share), choice or switch; or of the page's own, which has a control
        for it alone. text: of the API alone, without a field.
    least, most: of a number, as it is typed. above: of a number in the API, which is larger.
    choices: that can be asked for.
    pattern: regular expression of a text.
    """

    kind: Literal["region", "number", "percent", "choice", "switch", "own", "text"]
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True, kw_only=True)
class FitOption:
    """An option of a fit.

    name: on the command line, where it has dashes, and in a file. argument: of `fit`, where it is one.
    default: of the argument.
    meaning: in Python and in the docs.
    group: of the help. of: what it is. file: where it may stand in a YAML file.
    value, metavar, choices, help: on the command line. shared: it is added by `cli.common.add_SHARED`, as
        other commands have it. exclusive: options of one such word are not given together.
    switched: the argument's value where a switch is given.
    rare: `--help-all` alone shows it.
    names_files: its value names files that are read.
    computes: what is computed depends on it.
    kept_by_update: `--update` keeps the model's, and refuses another.
    stored: reads it from a model, so that a training anew has it. fact: key among a model's facts, which has
        the value where it is not the default. chooses: settings of the method, which are stored in its place.
    changes_input: the network sees other pictures with it.
    search: what `--auto` makes of it.
    benchmark: `flawscope benchmark` has it, too, for these cells; empty: it does not.
    apart: options that it does not go with. needs: the one that it makes no sense without, and how to give
        that.
    form: New product of a station asks for it so; None: it does not.
    """

    name: str = ""
    argument: str = ""
    default: object = None
    meaning: str = ""
    group: str
    of: str = CALL
    file: str = EACH
    value: str = TEXT
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    shared: str = ""
    exclusive: str = ""
    switched: object = True
    rare: bool = False
    names_files: bool = False
    computes: bool = True
    kept_by_update: bool = False
    stored: Callable[[Artefact], object] | None = None
    fact: str = ""
    chooses: tuple[str, ...] = ()
    changes_input: bool = False
    search: str = KEPT
    benchmark: str = ""
    apart: tuple[str, ...] = ()
    needs: tuple[str, str] | None = None
    form: FormField | None = None

    @property
    def can_be_read(self) -> bool:
        """Whether a model tells its value."""
        return self.stored is not None or self.fact != ""

    @property
    def is_stored(self) -> bool:
        """Whether a training anew has it: by itself, or as settings of the method."""
        return self.can_be_read or self.of == SETTING or self.chooses != ()

    def read(self, model: Artefact) -> object:
        """Reads the argument's value from a model that tells it (`can_be_read`)."""
        if self.stored is not None:
            return self.stored(model)
        return model.manifest.facts.get(self.fact, self.default)


def option(
    default: T, meaning: str, *, record: FitOption, stored: Callable[[Artefact], T] | None = None
) -> T:
    """Makes the field of an argument of `fit` that is an option.

    Args:
        default: of the argument.
        meaning: in Python and in the docs.
        record: all else that is known of it. Its name is the argument's, where it has none.
        stored: reads it from a model.
    """
    known = replace(record, of=ARGUMENT, default=default, meaning=meaning, stored=stored)
    return field(default=default, metadata={RECORD: known})


def records_of(arguments: type[DataclassInstance]) -> tuple[FitOption, ...]:
    """Returns the records of the options among these arguments of `fit`."""
    found = list[FitOption]()
    for one in fields(arguments):
        record = one.metadata.get(RECORD)
        if record is None:
            continue
        found.append(replace(record, argument=one.name, name=record.name or one.name))
    return tuple(found)
