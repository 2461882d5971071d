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

SHOT_SUFFIX = "-shot"  # behind a number of pictures: column of a method fitted on so few
# Options of `fit` that the cells of a call share
SHARED_OPTIONS = tuple(option for option in BENCHMARK if option.benchmark == ALL_CELLS)
# Those that every identity names, given or not: names of cells are those of versions that had no others
ALWAYS_NAMED = ("group", "minutes", "device")
MAX_HASHED_FILES = 20_000  # files in a folder that a setting names, beyond which their content is not read


@dataclass(frozen=True)
class Cell:
    """Cell of a benchmark: a category, a method, a seed, and their settings.

    Attributes:
        options: The method's settings, all of them.
        seen: Defects that it learns from too, as `fitting.fit` takes them; they are not tested on.
        shared: Values of `SHARED_OPTIONS`, by their names.
        identity: All that decides the result; files that settings name count by content, not by place.
        shots: Number of good pictures that it learns from, drawn by the seed; 0: all.
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
        """Method that is fitted: `method` without `-NUMBER` and `SHOT_SUFFIX`."""
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
        """Stem of the names of the cell's files: other settings, other name."""
        return f"{self.category}-{self.method}-seed{self.seed}-{_digest(self.identity)[:12]}"


class CellSettings(NamedTuple):
    """Settings of a method for a category.

    Attributes:
        config: Settings of the method.
        seen: Defects that it learns from, as `fitting.fit` takes them.
    """

    config: PictureSettings
    seen: int | str


@dataclass(frozen=True)
class Grid:
    """The cells of a call.

    Attributes:
        rows: Categories in the order of the tables.
        methods: Columns of the tables: methods, with `--shots` for each number of pictures.
        seeds: Seeds by method.
        cells: Cells in the order in which they run: the first seed of everything comes first.
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
    """Plan the grid of a call of `flawscope benchmark`, whose options these are, with every setting checked.

    It loads no torch.

    Args:
        root: Folder of categories in any layout that `open_dataset` reads, or one category.
        categories: Names with commas, textures, objects or all.
        methods: Names with commas.
        seeds: Numbers with commas.
        configs: `METHOD=FILE`, YAML files of settings.
        sets: `METHOD.key=value`, which win over the files. `METHOD.seeds=LIST` wins over `seeds`.
        steps: Training steps, for the methods that learn in steps; None: by default.
        seen: Defects to learn from, for the methods that learn from them; None: none.
        shots: Numbers of good pictures with commas; each gives every method a column. None: all pictures.
        shared: Values of `SHARED_OPTIONS`; a missing option has its default.

    Raises:
        InputError: A method or setting is unknown, or there is no usable category.
    """
    chosen = split_names(methods, "--methods", "name one or more, such as patchcore,efficientad")
    for name in chosen:
        registry.method(name)  # an unknown one is reported now
    common = _shared_values(shared)
    few = _parse_shots(shots)
    numbers, files, method_options = _options_by_method(
        chosen, _parse_numbers(seeds, "--seeds", "0,1,2"), configs, sets
    )
    rows, missing = select_categories(root, categories, "--categories")
    given = {"steps": steps, "minutes": common["minutes"], "seen": seen}
    present = [row for row in rows if row not in missing]
    settings: dict[tuple[str, str], CellSettings] = {}
    for method, category in product(chosen, present):
        file = files.get(method)
        settings[method, category] = _cell_settings(
            method, category, file, method_options.get(method, ()), given
        )
    _check_taken(chosen, given)
    first = numbers[chosen[0]][0]
    usable, unusable = _open_categories(root, present, first, common["group"], common["good"])
    cells = tuple(_cells(chosen, numbers, usable, settings, common))
    if few:
        cells = tuple(_with_shots(cell, count) for cell, count in product(cells, few))
        columns = [(_shot_column(method, count), method) for method, count in product(chosen, few)]
        numbers = {column: numbers[method] for column, method in columns}
        chosen = tuple(numbers)
    return Grid(rows, chosen, numbers, cells, missing, unusable)


def _shared_values(given: Mapping[str, object]) -> Json:
    """Values of the shared options, the light as a number. InputError for a light that cannot be."""
    defaults = {option.name: option.default for option in SHARED_OPTIONS}
    if unknown := given.keys() - defaults.keys():
        raise TypeError(f"plan_grid takes no {', '.join(sorted(unknown))}")
    values: Json = {**defaults, **given}
    if values["light"] is not None:
        values["light"] = parse_false_alarm_rate(values["light"])
        check_range(values["light"])
    return values


def _parse_shots(text: str | None) -> tuple[int, ...]:
    """Numbers of good pictures; none: all are learnt from."""
    if not text:
        return ()
    numbers = _parse_numbers(text, "--shots", "1,2,4,8")
    if 0 in numbers:
        raise InputError("--shots: 0 pictures teach nothing; write for example 1,2,4,8")
    return numbers


def _check_taken(methods: Sequence[str], options: Facts) -> None:
    """Raise an InputError for an option that none of the methods knows."""
    names = ", ".join(methods)
    if (options["steps"] or options["minutes"]) and not any(map(_learns_in_steps, methods)):
        raise InputError(f"--steps, --minutes: none of {names} learns in steps; leave them out")
    if options["seen"] and not any(map(_learns_from_defects, methods)):
        raise InputError(f"--seen: {' and '.join(methods)} learn from good pictures only; leave it out")


def _shot_column(method: str, shots: int) -> str:
    return f"{method}-{shots}{SHOT_SUFFIX}"


def _with_shots(cell: Cell, shots: int) -> Cell:
    """A cell that learns from so many good pictures."""
    identity = {**cell.identity, "shots": shots}
    return replace(cell, method=_shot_column(cell.method, shots), identity=identity, shots=shots)


def _cells(
    methods: Sequence[str],
    seeds: Mapping[str, tuple[int, ...]],
    datasets: Mapping[str, Dataset],
    settings: Mapping[tuple[str, str], CellSettings],
    shared: Json,
) -> Iterator[Cell]:
    """Yield the cells: the first seed of everything, then the second.

    Args:
        methods: Methods of the grid.
        seeds: Seeds by method.
        datasets: Data sets by category.
        settings: Settings by method and category.
        shared: Options of all cells; `minutes` is only for methods that learn in steps.
    """
    known: dict[str, str] = {}
    data = {category: _dataset_digest(dataset, known) for category, dataset in datasets.items()}
    for place in range(max(map(len, seeds.values()))):
        for method in methods:
            if place >= len(seeds[method]):
                continue
            cell_options = {**shared, "minutes": shared["minutes"] if _learns_in_steps(method) else None}
            for category, dataset in datasets.items():
                config, seen = settings[method, category]
                config = replace(config, seed=seeds[method][place])
                identity = {
                    "category": category,
                    "method": method,
                    "settings": _settings_identity(config, known),
                    "seen": _seen_identity(seen, dataset, config.seed, known),
                    "data": data[category],
                    "flawscope": __version__,
                    **_shared_identity(cell_options),
                }
                yield Cell(
                    category=category,
                    method=method,
                    seed=config.seed,
                    options=_json_values(asdict(config)),
                    seen=seen,
                    shared=cell_options,
                    identity=_json_values(identity),
                )


def base_method(name: str) -> str:
    """Return the method of a column of the tables: its name without a suffix."""
    return re.sub(rf"-\d+{SHOT_SUFFIX}$", "", name)


# -------------------------------------------------------------------------------------- the call's arguments


def _options_by_method(
    chosen: Sequence[str], seeds: tuple[int, ...], configs: Sequence[str], sets: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], dict[str, list[str]]]:
    """Seeds, file of settings and single settings of each method."""
    numbers = dict.fromkeys(chosen, seeds)
    files = dict(_split_pair(text, "--config", "METHOD=FILE", chosen, "=") for text in configs)
    method_options: dict[str, list[str]] = {}
    for text in sets:
        method, rest = _split_pair(text, "--set", "METHOD.key=value", chosen, ".")
        if rest.startswith("seeds="):
            numbers[method] = _parse_numbers(rest.removeprefix("seeds="), f"--set {method}.seeds", "0,1,2")
        elif rest.partition("=")[0].strip() == "seed":
            raise InputError(f"--set {method}.seed: give --seeds, or --set {method}.seeds=0,1,2")
        else:
            method_options.setdefault(method, []).append(rest)
    return numbers, files, method_options


def _parse_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    words = split_names(text, option, f"write numbers with commas, such as {example}")
    if not all(word.isdecimal() for word in words):
        raise InputError(f"{option} {text}: not whole numbers of at least 0; write for example {example}")
    return tuple(dict.fromkeys(map(int, words)))


def _split_pair(text: str, option: str, form: str, methods: Sequence[str], sign: str) -> tuple[str, str]:
    """Split a text into `METHOD` and the part after the sign."""
    method, found, rest = text.partition(sign)
    if not found or not rest:
        raise InputError(f"{option} {text}: write it as {form}")
    if method not in methods:
        raise InputError(f"{option} {text}: {method} is none of --methods {','.join(methods)}; mend one")
    return method, rest


def _cell_settings(
    method: str, category: str, file: str | None, method_options: Sequence[str], options: Facts
) -> CellSettings:
    """Settings from preset, file, options and --set, later ones win; and the defects to learn from."""
    values = merge_settings(file, _taken_options(method, options), method_options, category)
    named, preset, seen = registry.take_choices(values)
    if named not in (None, method):
        where = f"config {file}" if file else "--set"
        raise InputError(f"{where} is not for {method}: mend its `method`, or give the right file")
    if seen != 0 and not _learns_from_defects(method):
        raise InputError(f"{method} learns from good pictures only: leave out its setting seen")
    config: Any = registry.configure(registry.method(method), preset, values)
    if options["minutes"] is not None and _learns_in_steps(method):
        config = replace(config, steps=None)  # as many as fit
    return CellSettings(config, int(seen) if str(seen).isdecimal() else str(seen))


def _taken_options(method: str, options: Facts) -> Json:
    """Options `--steps` and `--seen`, where a method knows them and they are given."""
    taken: Json = {}
    if options["steps"] is not None and _learns_in_steps(method):
        taken["steps"] = options["steps"]
    if options["seen"] is not None and _learns_from_defects(method):
        taken["seen"] = options["seen"]
    return taken


def _learns_in_steps(method: str) -> bool:
    return registry.method(method).learns_in_steps


def _learns_from_defects(method: str) -> bool:
    return registry.method(method).takes_seen_defects


def _open_categories(
    root: str | os.PathLike[str], names: Sequence[str], seed: int, group: str | None, good: str | None
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Open the data sets; return the usable ones, and the reason why each other category is not."""
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
    stored: Json = json.loads(json.dumps(values, allow_nan=False))
    return stored


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _dataset_digest(dataset: Dataset, known: dict[str, str]) -> str:
    """Return the digest of a category's pictures and masks, and of all else that decides split or metrics.

    The content counts, not the place of the folder.
    """
    items = [item for split in dataset.splits.values() for item in split]
    paths = [path for item in items for path in (item.path, *item.masks)]
    paths += [dataset.root.parent / VISA_TABLE, dataset.root / VISA_TABLE, dataset.root / SATURATION_FILE]
    paths += filter(None, [realiad_table(dataset.root)])
    with ThreadPoolExecutor(4) as pool:  # hashing runs beside Python
        digests = list(pool.map(lambda path: _file_digest(path, known), paths))
    names = (Path(os.path.relpath(path, dataset.root)).as_posix() for path in paths)
    return _digest(sorted(zip(names, digests, strict=True)))


def _settings_identity(config: PictureSettings, known: dict[str, str]) -> Json:
    """Return the settings, with name and digest for files that they name. `known` has digests by path."""
    settings = asdict(config)
    for key in config.PATHS:
        settings[key] = _path_identity(settings[key], known)
    return settings


def _shared_identity(shared: Json) -> Json:
    return {name: value for name, value in shared.items() if value is not None or name in ALWAYS_NAMED}


def _path_identity(value: object, known: dict[str, str]) -> object:
    """Name and digest of the file or folder that a setting names, or the setting. `known` spares hashing."""
    path = Path(str(value))
    if not value or not path.exists():
        return value
    if not path.is_dir():
        digest = _file_digest(path, known)
    else:
        digest = known.get(str(path)) or _folder_digest(path, known)
        known[str(path)] = digest  # every cell names it again
    return f"{path.name} {digest[:16]}"


def _folder_digest(path: Path, known: dict[str, str]) -> str:
    """Digest of the files in a folder; of very many files their names and sizes."""
    files = list(walk_files(path))
    by_size = len(files) > MAX_HASHED_FILES

    def about(file: Path) -> int | str:
        if not by_size:
            return _file_digest(file, known)
        return file.stat().st_size if file.exists() else -1  # a link that leads nowhere

    return _digest([(file.relative_to(path).as_posix(), about(file)) for file in files])


def _seen_identity(value: int | str, dataset: Dataset, seed: int, known: dict[str, str]) -> int | str:
    """Number of seen defects, or a name with a digest of the pictures and masks that it stands for."""
    if isinstance(value, int):
        return value  # drawn from the data by the seed
    try:
        items = choose_seen(value, dataset, seed)
    except InputError as error:
        return str(error)  # the cell fails with it, and the others do not
    digests = []
    for item in items:
        files = [item.path, *item.masks]
        digests.append([_file_digest(path, known) for path in files])
    return f"{Path(value).name} {_digest(digests)[:16]}"


def _file_digest(path: str | os.PathLike[str], known: dict[str, str]) -> str:
    """Digest of a file's content; of an unreadable file the reason, which is reported when it is needed."""
    key = str(path)
    if key not in known:
        try:
            with open(path, "rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            known[key] = str(error.strerror)
    return known[key]
