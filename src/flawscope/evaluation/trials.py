"""Reads the trials of an agreement study, and the reference.

Trials come from a table that people filled in, or from results of `predict --out`. The reference says which
parts are defective.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flawscope.artefact.files import file_sha256, from_csv_cell
from flawscope.datasets.class_labels import ClassLabels, read_class_labels
from flawscope.datasets.good_and_bad_folders import FolderTree
from flawscope.errors import InputError, join_names, pluralize
from flawscope.evaluation.agreement import Study
from flawscope.pictures.folder_words import Said, says_good
from flawscope.pictures.listing import list_inputs, natural_key
from flawscope.pictures.name_words import PictureClass
from flawscope.pictures.text_files import read_text
from flawscope.results.run import PARTS_TABLE_NAME, SUMMARY_NAME, TABLE_NAME
from flawscope.results.table import ResultRow, read_table
from flawscope.types import Json

# Decisions that are no words of good and defective: AIAG writes 1 for a good part and 0 for a defective one
OTHER_WORDS = {"1": True, "0": False, "within tolerance": True}
TRIAL_COLUMNS = ("part", "appraiser", "trial", "decision")
REFERENCE_COLUMNS = ("part", "reference")
ENOUGH = "a study needs good and defective parts, about as many of each, and some near the limit"


class Trial(NamedTuple):
    """Decision on a part.

    Attributes:
        part: Name of the part.
        appraiser: Name of the appraiser.
        trial: Name of the trial.
        defective: The decision.
        place: Place of the decision in its file, for errors.
        score: Score of a model; empty: a person decided.
    """

    part: str
    appraiser: str
    trial: str
    defective: bool
    place: str
    score: str = ""


class Source(NamedTuple):
    """File that a study was read from.

    Attributes:
        path: The file.
        sha256: Digest of its content.
        run: Time when it was written, and the model that wrote it.
        pictures: Pictures that were judged.
    """

    path: Path
    sha256: str
    run: str
    pictures: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, path: Path, facts: Mapping[str, object] | None = None, pictures: Iterable[str] = ()
    ) -> Source:
        """Return the source of a file, with its digest and the time when it was written.

        Args:
            path: The file.
            facts: `results.json` of a run of `predict`; None: the file is a table.
            pictures: Pictures that the run judged.
        """
        written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(path.stat().st_mtime))
        keys = ("model", "method", "score_threshold", "tolerances", "flawscope")
        described = [f"{key.replace('_', ' ')} {facts[key]}" for key in keys if facts and facts.get(key)]
        return cls(path, file_sha256(path), ", ".join([written, *described]), tuple(pictures))


class ReadStudy(NamedTuple):
    """Study with the files that it was read from.

    Attributes:
        study: The study.
        sources: The files.
        same_pictures: Number of parts by model that got the identical score in two trials, and were not
            inspected anew.
    """

    study: Study
    sources: list[Source]
    same_pictures: Mapping[str, int]


def read_study(paths: Sequence[Path], reference: Path | None) -> ReadStudy:
    """Read a study.

    Args:
        paths: tables of trials, .csv, with the columns part, appraiser, trial and decision; folders of
            `predict --out`, each one trial of its model, of pictures that are named by the part.
        reference: a table, .csv, with the columns part and reference; or a folder of pictures that are named
            by the part, the good ones in `good` or another such word. None: the tables of trials have a
            column `reference`.

    Raises:
        InputError: a file cannot be read, or the study is not complete; the line says which part.
    """
    truth, sources = _read_reference(reference)
    trials: list[Trial] = []
    runs: Counter[str] = Counter()  # of each model
    for path in paths:
        if path.is_dir():
            facts = _read_facts(path)
            table = read_table(path / TABLE_NAME)
            model = str(facts.get("model") or path.name)
            runs[model] += 1
            trials += _results_trials(path, table, model, str(runs[model]))
            sources.append(Source.of(path / TABLE_NAME, facts, (row.path for row in table)))
            continue
        rows = [*_read_rows(path, TRIAL_COLUMNS)]
        sources.append(Source.of(path))
        trials += _table_trials(rows)
        if reference is None:
            _add_reference(truth, [(place, row) for place, row in rows if "reference" in row])
    return ReadStudy(build_study(trials, truth), sources, _count_same_pictures(trials))


def _read_reference(reference: Path | None) -> tuple[dict[str, bool], list[Source]]:
    """Whether each part is defective, and the file that says so; empty where the tables of trials say it."""
    if reference is None:
        return {}, []
    if reference.is_dir():
        return _reference_folder(reference), []
    truth: dict[str, bool] = {}
    _add_reference(truth, _read_rows(reference, REFERENCE_COLUMNS))
    return truth, [Source.of(reference)]


def _table_trials(rows: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[Trial]:
    """Yield the decisions in rows of a table that people filled in."""
    for place, row in rows:
        part, appraiser, trial, decision = (row[name] for name in TRIAL_COLUMNS)
        yield Trial(part, appraiser, trial, _parse_word(decision, place), place)


def build_study(trials: Sequence[Trial], truth: Mapping[str, bool]) -> Study:
    """Sort trials into a study.

    Args:
        trials: The decisions.
        truth: Whether each part is defective, by its name.

    Raises:
        InputError: There is no trial or no reference, a part is unknown, all are of one class, or a part is
            inspected twice in a trial or not in every trial.
    """
    if not trials:
        raise InputError("there is no decision in what was named: add rows to the table of trials")
    if not truth:
        raise InputError(
            "nothing says which parts are defective: name --reference FILE.csv|FOLDER, or add a column "
            "reference to the table of trials"
        )
    trials = _with_one_spelling(trials)
    by_key = _index_trials(trials, truth)
    if len(classes := set(truth.values())) < 2:
        only = "defective" if True in classes else "good"
        raise InputError(f"the reference has {only} parts alone ({len(truth):,}): {ENOUGH}")
    labels = _trials_by_appraiser(trials)
    parts = sorted(truth, key=natural_key)
    _check_complete(by_key, labels, parts)
    decisions = {}
    for name, names_of_trials in labels.items():
        rows = [[by_key[name, trial, part].defective for trial in names_of_trials] for part in parts]
        decisions[name] = np.array(rows)
    return Study(tuple(parts), np.array([truth[part] for part in parts]), decisions)


def _with_one_spelling(trials: Iterable[Trial]) -> list[Trial]:
    """Trials in which each appraiser's name has one spelling: Ann and ann are one."""
    spelled: dict[str, str] = {}
    found = []
    for trial in trials:
        name = spelled.setdefault(trial.appraiser.casefold(), trial.appraiser)
        found.append(trial._replace(appraiser=name))
    return found


TrialKey = tuple[str, str, str]  # appraiser, trial, part


def _index_trials(trials: Iterable[Trial], truth: Mapping[str, bool]) -> dict[TrialKey, Trial]:
    """Return the trials by appraiser, trial and part.

    Raises:
        InputError: A part is unknown, or inspected twice in a trial.
    """
    found: dict[TrialKey, Trial] = {}
    for trial in trials:
        if trial.part not in truth:
            raise InputError(
                f"{trial.place}: part {trial.part} is not in the reference: add it there, "
                "or leave it out here"
            )
        key = (trial.appraiser, trial.trial, trial.part)
        if key in found:
            raise InputError(
                f"{trial.place}: {trial.appraiser} decides on part {trial.part} twice in trial {trial.trial} "
                f"(first in {found[key].place}): number the trials"
            )
        found[key] = trial
    return found


def _trials_by_appraiser(trials: Sequence[Trial]) -> dict[str, list[str]]:
    """Names of each appraiser's trials, in order. InputError: one has more than another."""
    names: dict[str, set[str]] = {}
    for trial in trials:
        names.setdefault(trial.appraiser, set()).add(trial.trial)
    labels = {name: sorted(trial_names, key=natural_key) for name, trial_names in names.items()}
    if len({len(trial_names) for trial_names in labels.values()}) > 1:
        counts = join_names(
            [f"{name} in {pluralize(len(trial_names), 'trial')}" for name, trial_names in labels.items()]
        )
        raise InputError(
            f"parts are inspected by {counts}: every appraiser needs as many trials as the others"
        )
    return labels


def _check_complete(
    found: Mapping[TrialKey, Trial], labels: Mapping[str, Sequence[str]], parts: Sequence[str]
) -> None:
    """Raise an InputError where an appraiser has not decided on a part in one of the trials."""
    missing = []
    for name, trial_names in labels.items():
        missing += [key for key in product([name], trial_names, parts) if key not in found]
    if not missing:
        return
    name, trial, part = missing[0]
    more = f", and {len(missing) - 1:,} more are missing" if missing[1:] else ""
    raise InputError(
        f"{name} has not decided on part {part} in trial {trial}{more}: inspect it, or take the part out "
        "of the study"
    )


def _count_same_pictures(trials: Iterable[Trial]) -> dict[str, int]:
    scores: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        if trial.score:
            scores.setdefault((trial.appraiser, trial.part), []).append(trial.score)
    return dict(Counter(name for (name, _), of in scores.items() if len(set(of)) < len(of)))


def _read_facts(folder: Path) -> Json:
    """Facts of a run of `predict`; empty where there are none."""
    with suppress(OSError, ValueError):
        facts = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else {}
    return {}


def _results_trials(folder: Path, table: Iterable[ResultRow], appraiser: str, trial: str) -> Iterator[Trial]:
    """Yield decisions of a run, on parts in several views where its model decides on these."""
    place = str(folder / TABLE_NAME)
    rows = [(place, Path(row.path).stem, row.decision, str(row.score), row.error) for row in table]
    if (parts := folder / PARTS_TABLE_NAME).is_file():
        rows = [
            (where, row["part"], row["decision"], row.get("score", ""), "")
            for where, row in _read_rows(parts, ("part", "decision"))
        ]
    for place, part, decision, score, error in rows:
        if error or decision == "incomplete":
            why = error or "a view is missing"
            raise InputError(
                f"{place}: part {part} was not judged ({why}): inspect it again, or leave it out"
            )
        yield Trial(part, appraiser, trial, _parse_word(decision, place), place, score)


# ------------------------------------------------------------------------------------------------ reference


def _add_reference(truth: dict[str, bool], rows: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    for place, row in rows:
        part = row["part"]
        defective = _parse_word(row["reference"], place)
        if truth.setdefault(part, defective) != defective:
            raise InputError(f"{place}: part {part} is good in one row and defective in another: correct it")


def _reference_folder(folder: Path) -> dict[str, bool]:
    found: dict[str, Path] = {}
    for path in list_inputs(folder)[0]:
        if (first := found.setdefault(path.stem, path)) != path:
            raise InputError(f"{first} and {path} have one part's name: name pictures by the part")
    pictures = [*found.values()]
    labels = read_class_labels(folder, pictures, with_files_above=False)
    if labels.is_complete:
        return _classes(found, labels)
    folder_of = {part: path.relative_to(folder).parts[:-1] for part, path in found.items()}
    tree = None
    if () not in folder_of.values():
        tree = FolderTree(folder, pictures)
        if Said.UNCLEAR not in tree.found and not labels.has_unknown:
            return {part: tree.said[parts] is not Said.GOOD for part, parts in folder_of.items()}
    # Lists beside the folder count last: the table of trials is often among them.
    labels = read_class_labels(folder, pictures)
    if labels.is_complete:
        return _classes(found, labels)
    if tree is None:
        raise InputError(f"{folder}: put the pictures of good parts in a folder good, others in defective")
    raise tree.question("call their folders good and defective")


def _classes(pictures: Mapping[str, Path], labels: ClassLabels) -> dict[str, bool]:
    """Whether each part is defective, by its name, as the labels of its picture say."""
    return {part: labels.class_of(path) is PictureClass.BAD for part, path in pictures.items()}


# --------------------------------------------------------------------------------------------------- tables


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield place and values, by column, of each row of a table with commas, semicolons or tabs.

    Raises:
        InputError: It cannot be read, or a column or a value is missing.
    """
    try:
        yield from _parse_rows(path, read_text(path), columns)
    except FileNotFoundError:
        raise InputError(f"there is no {path}: name a table, .csv, or a folder") from None
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; save it as CSV in UTF-8") from None


def _parse_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    header = text.partition("\n")[0]
    table = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    names = [name.strip().casefold() for name in next(table, [])]
    if missing := [name for name in columns if name not in names]:
        raise InputError(f"{path} has no column {missing[0]}: it needs {', '.join(columns)}")
    for cells in table:
        pairs = zip(names, cells, strict=False)
        row = {name: from_csv_cell(cell).strip() for name, cell in pairs if name.strip()}
        if not any(row.values()):
            continue
        place = f"{path} line {table.line_num}"
        for name in columns:
            if not row.get(name):
                raise InputError(f"{place}: {name} is empty: fill it in, or take out the line")
        yield place, row


def _parse_word(text: str, place: str) -> bool:
    """Whether a word means a defective part. InputError: neither."""
    good = OTHER_WORDS.get(text.casefold(), says_good(text))
    if good is None:
        raise InputError(
            f"{place}: {text!r} is neither good nor defective: write good or defective, ok or nok"
        )
    return not good
