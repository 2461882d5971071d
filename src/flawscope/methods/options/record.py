"""FitOption: the record that holds all facts about an option of a fit."""

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
PROMISE = "false-alarm rate and checks"
METHOD = "method"
RUNNING = "running"
# Roles of an option: an argument of `fit`, a setting of methods, or an option of only the command line
ARGUMENT = "argument"
SETTING = "setting"
CALL = "call"
# Places of an option in a YAML file: in each category, above all categories, or none
EACH = "each"
WHOLE = "whole"
NOWHERE = "nowhere"
# Forms of an option's value on the command line
TEXT = "text"
NUMBER = "number"
SWITCH = "switch"
MINUTES = "minutes"
OPTIONAL_MINUTES = "optional minutes"
YES_OR_NO = "yes or no"  # a switch and its opposite; without both, the fit decides
# How `--auto` treats an option: it keeps the value; it tries sizes only where the option is not given; it
# tries nothing where the option is given; or the option has no effect on the search
KEPT = "kept"
SIZES = "sizes"
NOTHING = "nothing"
WITHOUT_EFFECT = "without effect"
# Cells of `flawscope benchmark` that get an option: all, or those of methods that take it
ALL_CELLS = "all cells"
ITS_METHODS = "its methods"


@dataclass(frozen=True, kw_only=True)
class FormField:
    """Field for an option on the station's page *New product*.

    Attributes:
        kind: Kind of the field. It is region, number, percent (of a share), choice or switch. For own, the
            page has a special control; for text, only the API has the field.
        least: Smallest number, as it is typed.
        most: Largest number, as it is typed.
        above: Bound of a number in the API, which must be larger.
        choices: Values that can be chosen.
        pattern: Regular expression that a text must match.
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
        argument: Name of the argument of `fit`; empty: the option is no argument.
        default: Default of the argument.
        meaning: Description in Python and in the docs.
        group: Group of the help.
        role: Its role: an argument of `fit`, a setting of methods, or an option of only the command line.
        file: Its place in a YAML file: in each category, above all categories, or none.
        value: Form of its value on the command line.
        metavar: Name of its value in the help.
        choices: Values on the command line.
        help: Its line in the help of the command line.
        shared: Ending of the name of the function in `cli.common` (`add_` and this word) that adds the option
            to several commands; empty: only `flawscope fit` has it.
        exclusive: Name of a group of options of which only one can be given; empty: no such group.
        switched: The argument's value where the switch is given.
        rare: Whether only `--help-all` shows it.
        names_files: Whether its value names files that are read.
        computes: Whether the computed result depends on it.
        kept_by_update: Whether `--update` keeps the model's value, and refuses another.
        stored: Reads the value from a model, to train it anew; None: no function reads it.
        fact: Key of the value among a model's facts; a fact that is missing means the default. Empty: the
            value is no fact.
        chooses: Settings of the method that are stored in its place.
        changes_input: Whether it changes the pictures that the network sees.
        search: How `--auto` treats it.
        benchmark: The cells of `flawscope benchmark` that get it; empty: none.
        apart: Names of options that cannot be given with it.
        needs: Name of the option that must be given with it, and advice how to give that; None: no option.
        form: Its field on the station's page *New product*; None: the page lacks it.
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
        """Whether a model stores the option: as a value of its own, or as settings of the method."""
        return self.can_be_read or self.role == SETTING or self.chooses != ()

    def read(self, model: Artefact) -> object:
        """Read the argument's value from a model; call it only where `can_be_read`."""
        if self.stored is not None:
            return self.stored(model)
        return model.manifest.facts.get(self.fact, self.default)


def option(
    default: T, meaning: str, *, record: FitOption, stored: Callable[[Artefact], T] | None = None
) -> T:
    """Make a dataclass field for an argument of `fit` that is an option, too.

    Args:
        default: Default of the argument.
        meaning: Description in Python and in the docs.
        record: The rest of the option's record. Without a name there, the option has the argument's name.
        stored: Reads the value from a model; None: no function reads it.
    """
    complete_record = replace(record, role=ARGUMENT, default=default, meaning=meaning, stored=stored)
    return field(default=default, metadata={RECORD: complete_record})


def records_of(arguments: type[DataclassInstance]) -> tuple[FitOption, ...]:
    """Return the option records of a class of `fit` arguments; a field without a record is no option."""
    records = list[FitOption]()
    for argument_field in fields(arguments):
        record = argument_field.metadata.get(RECORD)
        if record is None:
            continue
        option_name = record.name or argument_field.name
        records.append(replace(record, argument=argument_field.name, name=option_name))
    return tuple(records)
