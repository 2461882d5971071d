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
        run: Time when the file was written, and facts of the model that wrote it.
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
        words = [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(path.stat().st_mtime))]
        for key in ("model", "method", "score_threshold", "tolerances", "flawscope"):
            if facts and facts.get(key):
                words.append(f"{key.replace('_', ' ')} {facts[key]}")
        return cls(path, file_sha256(path), run=", ".join(words), pictures=tuple(pictures))


class ReadStudy(NamedTuple):
    """Study with the files that it was read from.

    Attributes:
        study: The study.
        sources: The files.
        same_pictures: For each model, the number of parts with the identical score in two trials, which means
            that the same picture was judged twice. A model without such parts is left out.
    """

    study: Study
    sources: list[Source]
    same_pictures: Mapping[str, int]


def read_study(paths: Sequence[Path], reference: Path | None) -> ReadStudy:
    """Read a study.

    Args:
        paths: Tables of trials, .csv, with the columns part, appraiser, trial and decision; or folders of
            `predict --out`. Each folder is a trial of its model, and its pictures are named by the part.
        reference: A table, .csv, with the columns part and reference; or a folder of pictures that are named
            by the part, with the good pictures in a folder `good` (or another word for it). None if the
            tables of trials have a column `reference`.

    Raises:
        InputError: A file cannot be read, or the study is not complete; the line says which part.
    """
    truth, sources = _read_reference(reference)
    trials: list[Trial] = []
    run_counts: Counter[str] = Counter()  # number of runs read so far, by model
    for path in paths:
        if path.is_dir():
            facts = _read_facts(path)
            table = read_table(path / TABLE_NAME)
            model = str(facts.get("model") or path.name)
            run_counts[model] += 1
            trials += _results_trials(path, table, model, trial=str(run_counts[model]))
            sources.append(Source.of(path / TABLE_NAME, facts, (row.path for row in table)))
            continue
        rows = [*_read_rows(path, TRIAL_COLUMNS)]
        sources.append(Source.of(path))
        trials += _table_trials(rows)
        if reference is None:
            _add_reference(truth, [(place, row) for place, row in rows if "reference" in row])
    return ReadStudy(build_study(trials, truth), sources, _count_equal_scores(trials))


def _read_reference(reference: Path | None) -> tuple[dict[str, bool], list[Source]]:
    """Return whether each part is defective, by its name, and the tables that say so.

    There is no table if the reference is a folder. Both are empty if there is no reference.
    """
    if reference is None:
        return {}, []
    if reference.is_dir():
        return _reference_folder(reference), []
    truth: dict[str, bool] = {}
    _add_reference(truth, _read_rows(reference, REFERENCE_COLUMNS))
    return truth, [Source.of(reference)]


def _table_trials(rows: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[Trial]:
    """Yield the decisions in a table that people filled in; each row comes with its place, for errors."""
    for place, row in rows:
        part, appraiser, trial, decision = (row[name] for name in TRIAL_COLUMNS)
        yield Trial(part, appraiser, trial, _parse_word(decision, place), place)


def build_study(trials: Sequence[Trial], truth: Mapping[str, bool]) -> Study:
    """Sort trials into a study.

    Args:
        trials: The decisions.
        truth: Whether each part is defective, by its name.

    Raises:
        InputError: There is no trial or no reference, a part is not in the reference, the reference has parts
            of one class only, or a part is inspected twice in a trial or not in every trial.
    """
    if not trials:
        raise InputError("there is no decision in what was named: add rows to the table of trials")
    if not truth:
        raise InputError(
            "nothing says which parts are defective: name --reference FILE.csv|FOLDER, or add a column "
            "reference to the table of trials"
        )
    spelled_trials = _with_one_spelling(trials)
    by_key = _index_trials(spelled_trials, truth)
    classes = set(truth.values())
    if len(classes) < 2:
        only = "defective" if True in classes else "good"
        raise InputError(f"the reference has {only} parts alone ({len(truth):,}): {ENOUGH}")
    names_by_appraiser = _trials_by_appraiser(spelled_trials)
    parts = sorted(truth, key=natural_key)
    _check_complete(by_key, names_by_appraiser, parts)
    decisions = {}
    for appraiser, trial_names in names_by_appraiser.items():
        # a row for each part, a column for each trial
        rows = [[by_key[appraiser, name, part].defective for name in trial_names] for part in parts]
        decisions[appraiser] = np.array(rows)
    defective = np.array([truth[part] for part in parts])
    return Study(tuple(parts), defective, decisions)


def _with_one_spelling(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials with one spelling of each appraiser's name, the first: Ann and ann are one person."""
    first_spellings: dict[str, str] = {}
    spelled_trials = []
    for trial in trials:
        name = first_spellings.setdefault(trial.appraiser.casefold(), trial.appraiser)
        spelled_trials.append(trial._replace(appraiser=name))
    return spelled_trials


TrialKey = tuple[str, str, str]  # appraiser, trial, part


def _index_trials(trials: Iterable[Trial], truth: Mapping[str, bool]) -> dict[TrialKey, Trial]:
    """Return the trials by appraiser, trial and part.

    Raises:
        InputError: A part is unknown, or inspected twice in a trial.
    """
    by_key: dict[TrialKey, Trial] = {}
    for trial in trials:
        if trial.part not in truth:
            raise InputError(
                f"{trial.place}: part {trial.part} is not in the reference: add it there, "
                "or leave it out here"
            )
        key = (trial.appraiser, trial.trial, trial.part)
        if key in by_key:
            raise InputError(
                f"{trial.place}: {trial.appraiser} decides on part {trial.part} twice in trial {trial.trial} "
                f"(first in {by_key[key].place}): number the trials"
            )
        by_key[key] = trial
    return by_key


def _trials_by_appraiser(trials: Sequence[Trial]) -> dict[str, list[str]]:
    """Return the names of trials, in natural order, by appraiser.

    Raises:
        InputError: An appraiser has more trials than another.
    """
    names_by_appraiser: dict[str, set[str]] = {}
    for trial in trials:
        names_by_appraiser.setdefault(trial.appraiser, set()).add(trial.trial)
    sorted_names = {}
    for appraiser, name_set in names_by_appraiser.items():
        sorted_names[appraiser] = sorted(name_set, key=natural_key)
    trial_counts = {len(names) for names in sorted_names.values()}
    if len(trial_counts) > 1:
        texts = []
        for appraiser, names in sorted_names.items():
            texts.append(f"{appraiser} in {pluralize(len(names), 'trial')}")
        raise InputError(
            f"parts are inspected by {join_names(texts)}: every appraiser needs as many trials as the others"
        )
    return sorted_names


def _check_complete(
    by_key: Mapping[TrialKey, Trial], trial_names: Mapping[str, Sequence[str]], parts: Sequence[str]
) -> None:
    """Raise InputError where an appraiser has not decided on each part in each trial."""
    missing = []
    for appraiser, own_trials in trial_names.items():
        missing += [key for key in product([appraiser], own_trials, parts) if key not in by_key]
    if not missing:
        return
    appraiser, trial, part = missing[0]
    more = f", and {len(missing) - 1:,} more are missing" if missing[1:] else ""
    raise InputError(
        f"{appraiser} has not decided on part {part} in trial {trial}{more}: inspect it, "
        "or take the part out of the study"
    )


def _count_equal_scores(trials: Iterable[Trial]) -> dict[str, int]:
    """Count, for each model, the parts that have an identical score in two trials.

    People's trials have no score, and are left out.
    """
    # model and part -> the scores, as the tables have them
    scores: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        if trial.score:
            scores.setdefault((trial.appraiser, trial.part), []).append(trial.score)
    counts = Counter[str]()
    for (appraiser, _), part_scores in scores.items():
        has_equal_scores = len(set(part_scores)) < len(part_scores)
        if has_equal_scores:
            counts[appraiser] += 1
    return dict(counts)


def _read_facts(folder: Path) -> Json:
    """Return the facts of a run of `predict`; empty where they cannot be read."""
    with suppress(OSError, ValueError):
        facts = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else {}
    return {}


def _results_trials(folder: Path, table: Iterable[ResultRow], appraiser: str, trial: str) -> Iterator[Trial]:
    """Yield the decisions of a run: those of its table of parts if there is one, else those on pictures.

    Args:
        folder: Folder of the run.
        table: Rows of the run's table of pictures.
        appraiser: Name of the model.
        trial: Name of the trial.

    Raises:
        InputError: A part was not judged, or the table of parts cannot be read.
    """
    rows: list[tuple[str, str, str, str, str]] = []  # place, part, decision, score, error
    parts_table = folder / PARTS_TABLE_NAME
    if parts_table.is_file():
        for place, values in _read_rows(parts_table, ("part", "decision")):
            rows.append((place, values["part"], values["decision"], values.get("score", ""), ""))
    else:
        place = str(folder / TABLE_NAME)
        for row in table:
            rows.append((place, Path(row.path).stem, row.decision, str(row.score), row.error))
    for place, part, decision, score, error in rows:
        if error or decision == "incomplete":
            reason = error or "a view is missing"
            raise InputError(
                f"{place}: part {part} was not judged ({reason}): inspect it again, or leave it out"
            )
        yield Trial(
            part=part,
            appraiser=appraiser,
            trial=trial,
            defective=_parse_word(decision, place),
            place=place,
            score=score,
        )


# ------------------------------------------------------------------------------------------------ reference


def _add_reference(truth: dict[str, bool], rows: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    """Add the parts in rows of a table to `truth`.

    Args:
        truth: Whether each part is defective, by its name; the parts are added to it.
        rows: Place of each row, for errors, and its values by column.

    Raises:
        InputError: A part is good in one row and defective in another.
    """
    for place, row in rows:
        part = row["part"]
        is_defective = _parse_word(row["reference"], place)
        if truth.setdefault(part, is_defective) != is_defective:
            raise InputError(f"{place}: part {part} is good in one row and defective in another: correct it")


def _reference_folder(folder: Path) -> dict[str, bool]:
    """Return whether each part of a folder of pictures is defective, by the part's name.

    Labels in the folder are used first, then the names of its folders, then lists beside or above it.

    Raises:
        InputError: Two pictures have one part's name, or it is not known which pictures are good.
    """
    picture_of: dict[str, Path] = {}
    paths, *_ = list_inputs(folder)
    for path in paths:
        first_path = picture_of.setdefault(path.stem, path)
        if first_path != path:
            raise InputError(f"{first_path} and {path} have one part's name: name pictures by the part")
    pictures = [*picture_of.values()]
    labels = read_class_labels(folder, pictures, with_files_above=False)
    if labels.is_complete:
        return _defective_by_part(picture_of, labels)
    # names of the folders from `folder` to each picture
    names_of = {part: path.relative_to(folder).parent.parts for part, path in picture_of.items()}
    tree = None
    if () not in names_of.values():  # no picture lies directly in the folder
        tree = FolderTree(folder, pictures)
        if Said.UNCLEAR not in tree.meanings and not labels.has_unknown:
            return {part: tree.meaning_of[names] is not Said.GOOD for part, names in names_of.items()}
    # Lists beside the folder count last: the table of trials is often among them.
    labels = read_class_labels(folder, pictures)
    if labels.is_complete:
        return _defective_by_part(picture_of, labels)
    if tree is None:
        raise InputError(f"{folder}: put the pictures of good parts in a folder good, others in defective")
    raise tree.question("call their folders good and defective")


def _defective_by_part(pictures: Mapping[str, Path], labels: ClassLabels) -> dict[str, bool]:
    """Return whether each part is defective, by its name, as the labels of its picture say."""
    return {part: labels.class_of(path) is PictureClass.BAD for part, path in pictures.items()}


# --------------------------------------------------------------------------------------------------- tables


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield, for each row of a table, its place (for errors) and its values by column.

    The table has commas, semicolons or tabs between the values.

    Raises:
        InputError: The table cannot be read, one of `columns` is missing, or has no value in a row.
    """
    try:
        yield from _parse_rows(path, read_text(path), columns)
    except FileNotFoundError:
        raise InputError(f"there is no {path}: name a table, .csv, or a folder") from None
    except InputError:  # a ValueError that needs no other message
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; save it as CSV in UTF-8") from None


def _parse_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place (for errors) and the values by column of each row of a table's `text`."""
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)  # the most frequent one in the header
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip().casefold() for name in next(table, [])]
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}: it needs {', '.join(columns)}")
    for cells in table:
        pairs = zip(names, cells, strict=False)  # cells beyond the header are left out
        row = {name: from_csv_cell(cell).strip() for name, cell in pairs if name.strip()}
        if not any(row.values()):
            continue
        place = f"{path} line {table.line_num}"
        for name in columns:
            if not row.get(name):
                raise InputError(f"{place}: {name} is empty: fill it in, or take out the line")
        yield place, row


def _parse_word(text: str, place: str) -> bool:
    """Return True if a word means a defective part, False if it means a good one.

    Args:
        text: The word.
        place: Place of the word, for the error.

    Raises:
        InputError: The word means neither good nor defective.
    """
    is_good = OTHER_WORDS.get(text.casefold())
    if is_good is None:
        is_good = says_good(text)
    if is_good is None:
        raise InputError(
            f"{place}: {text!r} is neither good nor defective: write good or defective, ok or nok"
        )
    return not is_good
