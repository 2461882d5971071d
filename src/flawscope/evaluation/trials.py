"""Reads the trials of an agreement study: a table that people filled in, results of `predict --out`, and what
the parts really are."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flawscope.artefact.files import CSV_ENCODING, file_sha256, from_csv_cell
from flawscope.errors import InputError, join_names, pluralize
from flawscope.evaluation.agreement import Study
from flawscope.pictures.listing import list_inputs, natural_key
from flawscope.results.run import PARTS_TABLE_NAME, SUMMARY_NAME, TABLE_NAME
from flawscope.results.table import read_table

# Words of a decision and of the reference, without upper case; AIAG writes 1 for a good part and 0 for a
# defective one
GOOD_WORDS = ("good", "ok", "pass", "accept", "1", "within tolerance")
DEFECTIVE_WORDS = ("defective", "anomalous", "bad", "nok", "ng", "fail", "reject", "0")
GOOD_FOLDER = "good"
TRIAL_COLUMNS, REFERENCE_COLUMNS = ("part", "appraiser", "trial", "decision"), ("part", "reference")
ENOUGH = "a study needs good and defective parts, about as many of each, and some near the limit"


class Trial(NamedTuple):
    """Decision on a part. place: where it stands, for errors. score: of a model; empty of a person."""

    part: str
    appraiser: str
    trial: str
    defective: bool
    place: str
    score: str = ""


@dataclass(frozen=True)
class Source:
    """File that a study was read from. facts: of a run of `predict`, its `results.json`. pictures: that the
    run judged."""

    path: Path
    sha256: str
    changed: str
    facts: Mapping[str, Any]
    pictures: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path, facts: Mapping[str, Any] | None = None, pictures: Iterable[str] = ()) -> Source:
        changed = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(path.stat().st_mtime))
        return cls(path, file_sha256(path), changed, facts or {}, tuple(pictures))


@dataclass(frozen=True)
class ReadStudy:
    """Study with the files that it was read from. same_pictures: parts that a model gave the very same score
    in two trials, by the model's name: they were not inspected anew."""

    study: Study
    sources: tuple[Source, ...]
    same_pictures: Mapping[str, int]


def read_study(paths: Sequence[Path], reference: Path | None) -> ReadStudy:
    """Reads a study.

    Args:
        paths: tables of trials, .csv, with the columns part, appraiser, trial and decision; folders of
            `predict --out`, each one trial of its model, of pictures that are named by the part.
        reference: a table, .csv, with the columns part and reference; or a folder of pictures that are named
            by the part, the good ones in `good`. None: the tables of trials have a column `reference`.

    Raises:
        InputError: a file cannot be read, or the study is not complete; the line says which part.
    """
    truth: dict[str, bool] = {}
    sources: list[Source] = []
    if reference is not None:
        truth = _reference_folder(reference) if reference.is_dir() else _reference_table(reference)
        sources += [] if reference.is_dir() else [Source.of(reference)]
    trials: list[Trial] = []
    runs: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            source = _results_source(path)
            appraiser = str(source.facts.get("model") or path.name)
            runs[appraiser] += 1
            trials += _results_trials(path, appraiser, str(runs[appraiser]))
        else:
            rows = list(_read_rows(path, TRIAL_COLUMNS))
            source = Source.of(path)
            trials += [
                Trial(row["part"], row["appraiser"], row["trial"], _parse_word(row["decision"], place), place)
                for place, row in rows
            ]
            if reference is None:
                _add_reference(truth, ((place, row) for place, row in rows if "reference" in row))
        sources.append(source)
    return ReadStudy(build_study(trials, truth), tuple(sources), _count_same_pictures(trials))


def build_study(trials: Sequence[Trial], truth: Mapping[str, bool]) -> Study:
    """Puts trials in order. truth: by part, whether it is defective. InputError: a part is unknown, of one
    class only, inspected twice in a trial or not in every one."""
    if not trials:
        raise InputError("there is no decision in what was named: add rows to the table of trials")
    if not truth:
        raise InputError(
            "nothing says which parts are defective: name --reference FILE.csv|FOLDER, or add a column "
            "reference to the table of trials"
        )
    seen: dict[tuple[str, str, str], Trial] = {}
    for one in trials:
        if one.part not in truth:
            raise InputError(
                f"{one.place}: part {one.part} is not in the reference: add it there, or leave it out here"
            )
        if (key := (one.appraiser, one.trial, one.part)) in seen:
            raise InputError(
                f"{one.place}: {one.appraiser} decides on part {one.part} twice in trial {one.trial} (first "
                f"in {seen[key].place}): number the trials"
            )
        seen[key] = one
    if len(classes := set(truth.values())) < 2:
        only = "defective" if True in classes else "good"
        raise InputError(f"all {pluralize(len(truth), 'part')} of the reference are {only}: {ENOUGH}")
    names = dict.fromkeys(one.appraiser for one in trials)
    labels = {
        name: sorted({one.trial for one in trials if one.appraiser == name}, key=natural_key)
        for name in names
    }
    repeats = {name: len(of) for name, of in labels.items()}
    if len(set(repeats.values())) > 1:
        told = join_names([f"{name} in {pluralize(n, 'trial')}" for name, n in repeats.items()])
        raise InputError(f"parts are inspected by {told}: every appraiser needs as many trials as the others")
    parts = sorted(truth, key=natural_key)
    wanted = ((name, trial, part) for name in names for trial in labels[name] for part in parts)
    if missing := [key for key in wanted if key not in seen]:
        name, trial, part = missing[0]
        more = f", and {len(missing) - 1:,} more are missing" if missing[1:] else ""
        raise InputError(
            f"{name} has not decided on part {part} in trial {trial}{more}: inspect it, or take the part out "
            "of the study"
        )
    decisions = {
        name: np.array([[seen[name, trial, part].defective for trial in labels[name]] for part in parts])
        for name in names
    }
    return Study(tuple(parts), np.array([truth[part] for part in parts]), decisions)


def _count_same_pictures(trials: Iterable[Trial]) -> dict[str, int]:
    scores: dict[tuple[str, str], list[str]] = {}
    for one in trials:
        if one.score:
            scores.setdefault((one.appraiser, one.part), []).append(one.score)
    return dict(Counter(name for (name, _), of in scores.items() if len(set(of)) < len(of)))


# ------------------------------------------------------------------------------------------------- results


def _results_source(folder: Path) -> Source:
    facts: Any = {}
    with suppress(OSError, ValueError):
        facts = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    rows = read_table(folder / TABLE_NAME)
    return Source.of(
        folder / TABLE_NAME, facts if isinstance(facts, dict) else {}, [row.path for row in rows]
    )


def _results_trials(folder: Path, appraiser: str, trial: str) -> Iterator[Trial]:
    """Yields decisions of a run, on parts in several views where its model decides on these."""
    for place, part, decision, score, error in _results_rows(folder):
        if error:
            raise InputError(
                f"{place}: part {part} was not judged ({error}): take its picture again, or take the part "
                "out of the study"
            )
        yield Trial(part, appraiser, trial, _parse_word(decision, place), place, score)


def _results_rows(folder: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yields place, part, decision, score and error."""
    if (parts := folder / PARTS_TABLE_NAME).is_file():
        for place, row in _read_rows(parts, ("part", "decision")):
            error = "a view is missing" if row["decision"] == "incomplete" else ""
            yield place, row["part"], row["decision"], row.get("score", ""), error
        return
    for one in read_table(table := folder / TABLE_NAME):
        yield str(table), Path(one.path).stem, one.decision, str(one.score), one.error


# ------------------------------------------------------------------------------------------------ reference


def _reference_table(path: Path) -> dict[str, bool]:
    truth: dict[str, bool] = {}
    _add_reference(truth, _read_rows(path, REFERENCE_COLUMNS))
    return truth


def _add_reference(truth: dict[str, bool], rows: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    for place, row in rows:
        part, defective = row["part"], _parse_word(row["reference"], place)
        if truth.setdefault(part, defective) != defective:
            raise InputError(f"{place}: part {part} is good in one row and defective in another: correct it")


def _reference_folder(folder: Path) -> dict[str, bool]:
    found: dict[str, Path] = {}
    for path in list_inputs(folder)[0]:
        if (first := found.setdefault(path.stem, path)) != path:
            raise InputError(f"{first} and {path} have one part's name: name pictures by the part")
    if not any(path.parent != folder for path in found.values()):
        raise InputError(f"{folder} has no folders: put good parts' pictures in good, others in defective")
    return {part: path.relative_to(folder).parts[0] != GOOD_FOLDER for part, path in found.items()}


# --------------------------------------------------------------------------------------------------- tables


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields place and values, by column, of each row of a table that somebody wrote, with commas or
    semicolons. InputError: it cannot be read, a column or a value is missing."""
    try:
        with open(path, encoding=CSV_ENCODING, newline="") as file:
            header = file.readline()
            file.seek(0)
            table = csv.reader(file, delimiter=";" if header.count(";") > header.count(",") else ",")
            names = [name.strip().casefold() for name in next(table, [])]
            if missing := [name for name in columns if name not in names]:
                raise InputError(f"{path} has no column {missing[0]}: it needs {', '.join(columns)}")
            for cells in table:
                row = {
                    n: from_csv_cell(cell).strip() for n, cell in zip(names, cells, strict=False) if n.strip()
                }
                place = f"{path} line {table.line_num}"
                if not any(row.values()):
                    continue
                for name in columns:
                    if not row.get(name):
                        raise InputError(f"{place}: {name} is empty: fill it in, or take out the line")
                yield place, row
    except FileNotFoundError:
        raise InputError(f"there is no {path}: name a table, .csv, or a folder") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; save it as CSV in UTF-8") from None


def _parse_word(text: str, place: str) -> bool:
    """Whether a word means a defective part. InputError: neither."""
    word = text.casefold()
    if word in GOOD_WORDS or word in DEFECTIVE_WORDS:
        return word in DEFECTIVE_WORDS
    allowed = f"{', '.join(GOOD_WORDS)} or {', '.join(DEFECTIVE_WORDS)}"
    raise InputError(f"{place}: {text!r} is neither good nor defective: write {allowed}")
