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
PICTURES = "pictures"
VIEWS = "how parts lie, and how they are seen"
PROMISE = "what is promised"
METHOD = "method"
RUNNING = "running"
# What an option is: an argument of `fit` (`arguments`), a setting of methods, or a part of the call
ARGUMENT = "argument"
SETTING = "setting"
CALL = "call"
# Where it may stand in a YAML file: in each category, above all of them, or nowhere
EACH = "each"
WHOLE = "whole"
NOWHERE = "nowhere"
# What its value is on the command line
TEXT = "text"
NUMBER = "number"
SWITCH = "switch"
MINUTES = "minutes"
OPTIONAL_MINUTES = "optional minutes"
YES_OR_NO = "yes or no"  # a switch and its opposite; without either it is found out
# What `--auto` makes of it: keeps it, tries sizes unless it is given, tries nothing, or is not changed by it
KEPT = "kept"
SIZES = "sizes"
NOTHING = "nothing"
WITHOUT_EFFECT = "without effect"
# Which cells of `flawscope benchmark` have it: all, or those of methods that take it
ALL_CELLS = "all cells"
ITS_METHODS = "its methods"


@dataclass(frozen=True, kw_only=True)
class FormField:
    """Field by which New product of a station asks for an option.

    Attributes:
        kind: Kind of the field. It is region, number, percent (of a share), choice or switch; with own, the
            page has a special control; with text, only the API has it.
        least: Smallest number, as it is typed.
        most: Largest number, as it is typed.
        above: Bound of a number in the API, which must be larger.
        choices: Values that can be asked for.
        pattern: Regular expression of a text.
    """

    kind: Literal["region", "number", "percent", "choice", "switch", "own", "text"]
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True, kw_only=True)
class FitOption:
    """Option of a fit.

    Attributes:
        name: Name on the command line, where it has dashes, and in a file.
        argument: Name of the argument of `fit`; empty: it is none.
        default: Default of the argument.
        meaning: Description in Python and in the docs.
        group: Group of the help.
        role: Its kind: an argument of `fit`, a setting of methods, or a part of the call.
        file: Where it may stand in a YAML file: in each category, above all of them, or nowhere.
        value: Form of its value on the command line.
        metavar: Name of its value in the help.
        choices: Values on the command line.
        help: Its line in the help.
        shared: The function `cli.common.add_SHARED` adds it, for other commands too; empty: it is not shared.
        exclusive: Options with the same word here are not given together.
        switched: The argument's value where a switch is given.
        rare: Whether `--help-all` alone shows it.
        names_files: Whether its value names files that are read.
        computes: Whether the computed result depends on it.
        kept_by_update: Whether `--update` keeps the model's value, and refuses another.
        stored: Reads it from a model, for a training anew; None: it is not stored by itself.
        fact: Key among a model's facts, which has the value where it is not the default.
        chooses: Settings of the method that are stored in its place.
        changes_input: Whether the network sees other pictures with it.
        search: How `--auto` treats it.
        benchmark: The cells of `flawscope benchmark` that have it; empty: none.
        apart: Options with which it cannot be given.
        needs: The option without which it makes no sense, and how to give that; None: it needs none.
        form: Its field of New product of a station; None: it has none.
    """

    name: str = ""
    argument: str = ""
    default: object = None
    meaning: str = ""
    group: str
    role: str = CALL
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
        """Whether its value can be read from a model."""
        return self.stored is not None or self.fact != ""

    @property
    def is_stored(self) -> bool:
        """Whether a training anew has it: by itself, or as settings of the method."""
        return self.can_be_read or self.role == SETTING or self.chooses != ()

    def read(self, model: Artefact) -> object:
        """Read the argument's value from a model; call it only where `can_be_read`."""
        if self.stored is not None:
            return self.stored(model)
        return model.manifest.facts.get(self.fact, self.default)


def option(
    default: T, meaning: str, *, record: FitOption, stored: Callable[[Artefact], T] | None = None
) -> T:
    """Make the field of an argument of `fit` that is an option.

    Args:
        default: Default of the argument.
        meaning: Description in Python and in the docs.
        record: The rest of its record. Without a name, it has the argument's.
        stored: Reads it from a model; None: it is not stored by itself.
    """
    known = replace(record, role=ARGUMENT, default=default, meaning=meaning, stored=stored)
    return field(default=default, metadata={RECORD: known})


def records_of(arguments: type[DataclassInstance]) -> tuple[FitOption, ...]:
    """Return the records of the options among these arguments of `fit`."""
    found = list[FitOption]()
    for argument_field in fields(arguments):
        record = argument_field.metadata.get(RECORD)
        if record is None:
            continue
        found.append(replace(record, argument=argument_field.name, name=record.name or argument_field.name))
    return tuple(found)
