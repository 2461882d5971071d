"""Plans the cells of a benchmark, each named by everything that decides its result."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flawscope._version import __version__
from flawscope.calibration.threshold import parse_false_alarm_rate
from flawscope.config import merge_settings
from flawscope.datasets import Dataset, open_dataset
from flawscope.datasets.layouts import select_categories
from flawscope.datasets.own_folders import split_names
from flawscope.datasets.published import SATURATION_FILE, VISA_TABLE, realiad_table
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.options import BENCHMARK
from flawscope.methods.options.record import ALL_CELLS
from flawscope.pictures.listing import walk_files
from flawscope.views.light import check_range

if TYPE_CHECKING:
    from flawscope.methods.settings import PictureSettings
    from flawscope.types import Facts, Json

SHOT_SUFFIX = "-shot"  # in `patchcore-4-shot`, the column of a method fitted on 4 pictures
# Options of `fit` that the cells of a call share
SHARED_OPTIONS = tuple(option for option in BENCHMARK if option.benchmark == ALL_CELLS)
# Shared options that are in each identity, even without a value. Earlier versions had only these and always
# wrote them: so finished cells of those versions are still found by their identity.
ALWAYS_NAMED = ("group", "minutes", "device")
MAX_HASHED_FILES = 20_000  # files in a folder that a setting names, beyond which their content is not read


@dataclass(frozen=True)
class Cell:
    """Cell of a benchmark: a category, a method, a seed, and their settings.

    Attributes:
        options: All settings of the method.
        seen: Defects that the method learns from, too, as `fitting.fit` takes them; they are not tested on.
        shared: Values of `SHARED_OPTIONS`, by their names.
        identity: All values that decide the result. Files are in it by their content, not by their path.
        shots: Number of good pictures that the method learns from, chosen by the seed; 0: all.
    """

    category: str
    method: str
    seed: int
    options: Json
    seen: int | str
    shared: Json
    identity: Json
    shots: int = 0

    @property
    def base_method(self) -> str:
        """Method that is fitted: `method` without an ending such as `-4-shot`."""
        return base_method(self.method)

    @property
    def fit_arguments(self) -> Json:
        """Arguments of `fit` that the call's options give."""
        return {option.argument: self.shared[option.name] for option in SHARED_OPTIONS if option.argument}

    @property
    def label(self) -> str:
        """Category, method and seed, for a person."""
        return f"{self.category} {self.method} seed {self.seed}"

    @property
    def name(self) -> str:
        """Stem of the names of the cell's files; different settings have different stems."""
        return f"{self.category}-{self.method}-seed{self.seed}-{_digest(self.identity)[:12]}"


class CellSettings(NamedTuple):
    """Settings of a method for a category.

    Attributes:
        config: Settings of the method.
        seen: Defects that the method learns from, as `fitting.fit` takes them.
    """

    config: PictureSettings
    seen: int | str


@dataclass(frozen=True)
class Grid:
    """The cells of a call.

    Attributes:
        rows: Categories in the order of the tables.
        methods: Columns of the tables: methods; with `--shots` a column for each method and number of
            pictures.
        seeds: Seeds by column.
        cells: Cells in the order in which they run: all cells of the first seed come first.
        missing: Categories that the data do not have.
        unusable: Other categories that cannot be used, each with the reason.
    """

    rows: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]
    cells: tuple[Cell, ...]
    missing: tuple[str, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)


def plan_grid(
    root: str | os.PathLike[str],
    *,
    categories: str = "all",
    methods: str = "patchcore",
    seeds: str = "0",
    configs: Sequence[str] = (),
    sets: Sequence[str] = (),
    steps: int | None = None,
    seen: str | None = None,
    shots: str | None = None,
    **shared: object,
) -> Grid:
    """Plan the grid of a call of `flawscope benchmark`, and check all settings.

    The arguments are the command's options. No torch is loaded.

    Args:
        root: Folder of categories in any layout that `open_dataset` reads, or one category.
        categories: Names with commas, textures, objects or all.
        methods: Names with commas.
        seeds: Numbers with commas.
        configs: YAML files of settings, each as `METHOD=FILE`.
        sets: Single settings, each as `METHOD.key=value`; they override the files. `METHOD.seeds=LIST`
            overrides `seeds`.
        steps: Training steps, for the methods that learn in steps; None for the default.
        seen: Defects to learn from, for the methods that learn from defects; None for no defects.
        shots: Numbers of good pictures to learn from, with commas. Each method gets a column for each number.
            None: all pictures are learnt from.
        **shared: Values of `SHARED_OPTIONS`; a missing option has its default.

    Raises:
        InputError: A method or setting is unknown, or there is no usable category.
    """
    method_names = split_names(methods, "--methods", "name one or more, such as patchcore,efficientad")
    for name in method_names:
        registry.method(name)  # InputError for an unknown method
    shared_values = _shared_values(shared)
    shot_counts = _parse_shots(shots)
    common_seeds = _parse_numbers(seeds, "--seeds", "0,1,2")
    seeds_of, files, method_options = _options_by_method(method_names, common_seeds, configs, sets)
    rows, missing = select_categories(root, categories, "--categories")
    options = {"steps": steps, "minutes": shared_values["minutes"], "seen": seen}
    present = [row for row in rows if row not in missing]
    settings: dict[tuple[str, str], CellSettings] = {}
    for method, category in product(method_names, present):
        settings[method, category] = _cell_settings(
            method,
            category,
            file=files.get(method),
            method_options=method_options.get(method, ()),
            options=options,
        )
    _check_options_apply(method_names, options)
    first_seed = seeds_of[method_names[0]][0]
    usable, unusable = _open_categories(
        root, present, seed=first_seed, group=shared_values["group"], good=shared_values["good"]
    )
    cells = tuple(_cells(method_names, seeds_of, usable, settings, shared_values))
    if not shot_counts:
        return Grid(
            rows, methods=method_names, seeds=seeds_of, cells=cells, missing=missing, unusable=unusable
        )
    shot_cells = tuple(_with_shots(cell, count) for cell, count in product(cells, shot_counts))
    column_seeds = {}
    for method, count in product(method_names, shot_counts):
        column_seeds[_shot_column(method, count)] = seeds_of[method]
    columns = tuple(column_seeds)
    return Grid(
        rows, methods=columns, seeds=column_seeds, cells=shot_cells, missing=missing, unusable=unusable
    )


def _shared_values(arguments: Mapping[str, object]) -> Json:
    """Return the values of all shared options by name: those of `arguments`, else the defaults.

    The light is the share by which the light of pictures is changed; it is converted to a number.

    Raises:
        TypeError: An argument is not a shared option.
        InputError: The light is not a number, or out of its range.
    """
    defaults = {option.name: option.default for option in SHARED_OPTIONS}
    unknown = arguments.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"plan_grid takes no {', '.join(sorted(unknown))}")
    values: Json = {**defaults, **arguments}
    if values["light"] is not None:
        values["light"] = parse_false_alarm_rate(values["light"])
        check_range(values["light"])
    return values


def _parse_shots(text: str | None) -> tuple[int, ...]:
    """Return the numbers of good pictures to learn from; empty: all are learnt from."""
    if not text:
        return ()
    numbers = _parse_numbers(text, "--shots", "1,2,4,8")
    if 0 in numbers:
        raise InputError("--shots: 0 pictures teach nothing; write for example 1,2,4,8")
    return numbers


def _check_options_apply(methods: Sequence[str], options: Facts) -> None:
    """Raise InputError for an option that none of the methods knows.

    Args:
        methods: Methods of the grid.
        options: Values of `--steps`, `--minutes` and `--seen`.
    """
    names = ", ".join(methods)
    if (options["steps"] or options["minutes"]) and not any(map(_learns_in_steps, methods)):
        raise InputError(f"--steps, --minutes: none of {names} learns in steps; leave them out")
    if options["seen"] and not any(map(_learns_from_defects, methods)):
        raise InputError(f"--seen: {' and '.join(methods)} learn from good pictures only; leave it out")


def _shot_column(method: str, shots: int) -> str:
    return f"{method}-{shots}{SHOT_SUFFIX}"


def _with_shots(cell: Cell, shots: int) -> Cell:
    """Return a copy of a cell that learns from only `shots` good pictures."""
    identity = {**cell.identity, "shots": shots}
    return replace(cell, method=_shot_column(cell.method, shots), identity=identity, shots=shots)


def _cells(
    methods: Sequence[str],
    seeds: Mapping[str, tuple[int, ...]],
    datasets: Mapping[str, Dataset],
    settings: Mapping[tuple[str, str], CellSettings],
    shared: Json,
) -> Iterator[Cell]:
    """Yield the cells: first those of each method's first seed, then those of the second seeds, and so on.

    Args:
        methods: Methods of the grid.
        seeds: Seeds by method.
        datasets: Data sets by category.
        settings: Settings by method and category.
        shared: Values of the shared options. `minutes` is left out for methods that do not learn in steps.
    """
    digests: dict[str, str] = {}  # path of a file or folder -> its digest
    data_digests = {}
    for category, dataset in datasets.items():
        data_digests[category] = _dataset_digest(dataset, digests)
    max_seeds = max(map(len, seeds.values()))
    for seed_index in range(max_seeds):
        for method in methods:
            if seed_index >= len(seeds[method]):
                continue
            seed = seeds[method][seed_index]
            cell_options = dict(shared)
            if not _learns_in_steps(method):
                cell_options["minutes"] = None
            for category, dataset in datasets.items():
                method_config, seen = settings[method, category]
                config = replace(method_config, seed=seed)
                identity = {
                    "category": category,
                    "method": method,
                    "settings": _settings_identity(config, digests),
                    "seen": _seen_identity(seen, dataset, seed, digests),
                    "data": data_digests[category],
                    "flawscope": __version__,
                    **_shared_identity(cell_options),
                }
                yield Cell(
                    category=category,
                    method=method,
                    seed=seed,
                    options=_json_values(asdict(config)),
                    seen=seen,
                    shared=cell_options,
                    identity=_json_values(identity),
                )


def base_method(name: str) -> str:
    """Return the method of a column of the tables: its name without an ending such as `-4-shot`."""
    return re.sub(rf"-\d+{SHOT_SUFFIX}$", "", name)


# -------------------------------------------------------------------------------------- the call's arguments


def _options_by_method(
    methods: Sequence[str], seeds: tuple[int, ...], configs: Sequence[str], sets: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], dict[str, list[str]]]:
    """Return three mappings by method: its seeds, its file of settings, and its single settings.

    Methods without a file or without single settings are not in the second and third mapping.

    Args:
        methods: Methods of the grid.
        seeds: Seeds of methods without seeds of their own in `sets`.
        configs: Values of `--config`.
        sets: Values of `--set`.

    Raises:
        InputError: A value has another form, or names none of the methods.
    """
    seeds_of = dict.fromkeys(methods, seeds)
    files = dict(_split_pair(text, "--config", "METHOD=FILE", methods, "=") for text in configs)
    method_options: dict[str, list[str]] = {}
    for text in sets:
        method, assignment = _split_pair(text, "--set", "METHOD.key=value", methods, ".")
        key, _, value = assignment.partition("=")
        if assignment.startswith("seeds="):
            seeds_of[method] = _parse_numbers(value, f"--set {method}.seeds", "0,1,2")
        elif key.strip() == "seed":
            raise InputError(f"--set {method}.seed: give --seeds, or --set {method}.seeds=0,1,2")
        else:
            method_options.setdefault(method, []).append(assignment)
    return seeds_of, files, method_options


def _parse_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """Return the numbers of a text with commas, each once.

    Args:
        text: Value of the option.
        option: Name of the option, for the error.
        example: Example of a right value, for the error.

    Raises:
        InputError: A word is not a whole number.
    """
    words = split_names(text, option, f"write numbers with commas, such as {example}")
    if not all(word.isdecimal() for word in words):
        raise InputError(f"{option} {text}: not whole numbers of at least 0; write for example {example}")
    return tuple(dict.fromkeys(map(int, words)))


def _split_pair(text: str, option: str, form: str, methods: Sequence[str], separator: str) -> tuple[str, str]:
    """Split the value of an option into a method and the part after the separator.

    Args:
        text: Value of the option.
        option: Name of the option, for the error.
        form: How a value is to be written, for the error.
        methods: Methods of the grid.
        separator: Character after the method.

    Raises:
        InputError: There is no separator, nothing behind it, or the method is none of `methods`.
    """
    method, _, value = text.partition(separator)
    if not value:
        raise InputError(f"{option} {text}: write it as {form}")
    if method not in methods:
        raise InputError(f"{option} {text}: {method} is none of --methods {','.join(methods)}; mend one")
    return method, value


def _cell_settings(
    method: str, category: str, file: str | None, method_options: Sequence[str], options: Facts
) -> CellSettings:
    """Return the settings of a method for a category, and the defects to learn from.

    The settings come from the preset, the file, the options and `--set`, of which each overrides the ones
    before it.

    Args:
        method: The method.
        category: The category.
        file: File of settings; None for no file.
        method_options: Values of `--set` for the method, as `key=value`.
        options: Values of `--steps`, `--minutes` and `--seen`.

    Raises:
        InputError: A setting is unknown or wrong, or the file is for another method.
    """
    values = merge_settings(file, _applicable_options(method, options), method_options, category)
    named_method, preset, seen = registry.take_choices(values)
    if named_method not in (None, method):
        source = f"config {file}" if file else "--set"
        raise InputError(f"{source} is not for {method}: mend its `method`, or give the right file")
    if seen != 0 and not _learns_from_defects(method):  # 0: no defects
        raise InputError(f"{method} learns from good pictures only: leave out its setting seen")
    config: Any = registry.configure(registry.method(method), preset, values)
    if options["minutes"] is not None and _learns_in_steps(method):
        config = replace(config, steps=None)  # as many steps as the minutes allow
    seen_defects = int(seen) if str(seen).isdecimal() else str(seen)
    return CellSettings(config, seen=seen_defects)


def _applicable_options(method: str, options: Facts) -> Json:
    """Return the options `--steps` and `--seen` that have a value and that a method knows."""
    applicable: Json = {}
    if options["steps"] is not None and _learns_in_steps(method):
        applicable["steps"] = options["steps"]
    if options["seen"] is not None and _learns_from_defects(method):
        applicable["seen"] = options["seen"]
    return applicable


def _learns_in_steps(method: str) -> bool:
    return registry.method(method).learns_in_steps


def _learns_from_defects(method: str) -> bool:
    return registry.method(method).takes_seen_defects


def _open_categories(
    root: str | os.PathLike[str], names: Sequence[str], seed: int, group: str | None, good: str | None
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Open the data sets of categories.

    Returns:
        The usable data sets, and the reasons why other categories cannot be used, both by category.

    Raises:
        InputError: No category can be used.
    """
    usable = {}
    unusable = {}
    for name in names:
        try:
            dataset = open_dataset(root, name, seed=seed, group=group, good=good)
            if not dataset.test:
                raise InputError(f"{dataset.root} has no test pictures: there is nothing to evaluate")
            usable[name] = dataset
        except InputError as error:
            unusable[name] = str(error)
    if not usable:
        raise InputError(next(iter(unusable.values())))
    return usable, unusable


# ------------------------------------------------------------------------------------- the identity of a cell


def _json_values(values: Json) -> Json:
    """Return values as JSON would store them, for example lists in place of tuples.

    So they can be compared with values read from a file.
    """
    stored: Json = json.loads(json.dumps(values, allow_nan=False))
    return stored


def _digest(value: object) -> str:
    """Return a digest of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _dataset_digest(dataset: Dataset, digests: dict[str, str]) -> str:
    """Return the digest of a category: its pictures and masks, and the files that decide split or metrics.

    The digest does not depend on where the folder lies.

    Args:
        dataset: The category.
        digests: Digests of files, by path; those that are computed here are added.
    """
    root = dataset.root
    items = [item for split in dataset.splits.values() for item in split]
    paths = [path for item in items for path in (item.path, *item.masks)]
    paths += [root.parent / VISA_TABLE, root / VISA_TABLE, root / SATURATION_FILE]
    table = realiad_table(root)
    if table is not None:
        paths.append(table)
    with ThreadPoolExecutor(4) as pool:  # hashing releases Python's lock
        file_digests = list(pool.map(lambda path: _file_digest(path, digests), paths))
    names = (Path(os.path.relpath(path, root)).as_posix() for path in paths)
    return _digest(sorted(zip(names, file_digests, strict=True)))


def _settings_identity(config: PictureSettings, digests: dict[str, str]) -> Json:
    """Return the settings, with each path replaced by the name and digest of its file or folder.

    Args:
        config: The settings.
        digests: Digests of files and folders, by path; those that are computed here are added.
    """
    settings = asdict(config)
    for key in config.PATHS:
        settings[key] = _path_identity(settings[key], digests)
    return settings


def _shared_identity(shared: Json) -> Json:
    """Return the shared options that have a value, and those of `ALWAYS_NAMED`."""
    return {name: value for name, value in shared.items() if value is not None or name in ALWAYS_NAMED}


def _path_identity(value: object, digests: dict[str, str]) -> object:
    """Return name and digest of the file or folder that a setting names; any other value as it is.

    Args:
        value: Value of the setting.
        digests: Digests of files and folders, by path; those that are computed here are added.
    """
    path = Path(str(value))
    if not value or not path.exists():
        return value
    key = str(path)
    if not path.is_dir():
        digest = _file_digest(path, digests)
    else:
        if key not in digests:
            digests[key] = _folder_digest(path, digests)
        digest = digests[key]
    return f"{path.name} {digest[:16]}"


def _folder_digest(path: Path, digests: dict[str, str]) -> str:
    """Return the digest of the files in a folder.

    If there are more than `MAX_HASHED_FILES`, the digest is of the files' names and sizes only.
    """
    files = list(walk_files(path))
    is_small = len(files) <= MAX_HASHED_FILES
    entries: list[tuple[str, int | str]] = []
    for file in files:
        name = file.relative_to(path).as_posix()
        if is_small:
            entries.append((name, _file_digest(file, digests)))
        else:
            size = file.stat().st_size if file.exists() else -1  # -1 for a broken link
            entries.append((name, size))
    return _digest(entries)


def _seen_identity(value: int | str, dataset: Dataset, seed: int, digests: dict[str, str]) -> int | str:
    """Return what an identity says of seen defects: their number, or name and digest of a list or folder.

    Args:
        value: Number of seen defects, or path of a list or folder of them.
        dataset: Data set that the defects are chosen from.
        seed: Seed of the choice.
        digests: Digests of files, by path; those that are computed here are added.
    """
    if isinstance(value, int):
        return value  # the seed and the data, which choose the pictures, are in the identity
    try:
        items = choose_seen(value, dataset, seed)
    except InputError as error:
        return str(error)  # the cell itself will fail with this error, the others run
    item_digests = []
    for item in items:
        files = [item.path, *item.masks]
        item_digests.append([_file_digest(path, digests) for path in files])
    return f"{Path(value).name} {_digest(item_digests)[:16]}"


def _file_digest(path: str | os.PathLike[str], digests: dict[str, str]) -> str:
    """Return the digest of a file's content; if the file cannot be read, the reason.

    The code that needs the file reports that it cannot be read.

    Args:
        path: The file.
        digests: Digests of files, by path; that of this file is added if it is missing.
    """
    key = str(path)
    if key not in digests:
        try:
            with open(path, "rb") as file:
                digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            digests[key] = str(error.strerror)
    return digests[key]
