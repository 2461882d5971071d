"""Renders the page of an agreement study: one sheet to print, sign and file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope._version import __version__
from flawscope.errors import pluralize
from flawscope.evaluation import agreement
from flawscope.evaluation.agreement import Agreement, Appraisal, Share, grade_kappa
from flawscope.evaluation.trials import ReadStudy
from flawscope.pages.report.libraries import require_libraries
from flawscope.pages.report.page import read_asset
from flawscope.pages.report.words import percent, range_text, time_text
from flawscope.pictures.listing import printable
from flawscope.results import html

ALLOWED_MISSES = range(4)  # numbers of missed parts that a claim is shown for
MAX_PARTS = 100  # parts that are listed; --json has all
ENOUGH_PARTS = 50  # as in AIAG's example
NEW_PICTURES = (
    "A repeat must be a new picture of the part, taken away and put back: the same picture file always gets "
    "the same answer, so that judging it again shows nothing about repeatability."
)
RATES = {
    "effectiveness": "parts decided rightly in every trial",
    "miss_rate": "decisions that call a defective part good",
    "false_alarm_rate": "decisions that call a good part defective",
    "repeatability": "parts decided alike in every trial",
}
KAPPAS = {
    "cohen_reference": "Cohen, against the reference",
    "fleiss_reference": "Fleiss, against the reference, mean of the trials",
    "cohen_repeats": "Cohen, between trials, mean of the pairs",
    "fleiss_repeats": "Fleiss, between trials",
}


def kappa_text(kappa: float | None) -> str:
    """Format a kappa with its grade."""
    return "–" if kappa is None else f"{kappa:.3f} ({grade_kappa(kappa)})"


def share_text(share: Share | None) -> str:
    """Format a share: 42 of 50, 84 % (70.9 to 92.8 %)."""
    if share is None:
        return "–"
    interval = range_text(share.low, share.high)
    return f"{share.number:,} of {share.of:,}, {percent(share.rate)} ({interval})"


def at_most(rate: float) -> str:
    """Format the upper limit of a rate, which may be far below a percent."""
    return f"{100 * rate:.3g}\N{NO-BREAK SPACE}%"


def claim_sentence(rate: float) -> str:
    """Return a sentence on how many defective parts are needed to claim a miss rate."""
    numbers = []
    for misses in ALLOWED_MISSES:
        numbers.append(f"{agreement.parts_needed(rate, misses):,} with {misses or 'none'} missed")
    return f"to claim misses of at most {at_most(rate)}, 95 % sure, defective parts: {', '.join(numbers)}"


def shown_sentence(appraisal: Appraisal) -> str:
    """Return a sentence on the miss rate that can be claimed from an appraiser's trials."""
    missed = appraisal.ever_missed
    parts = f"{missed.number or 'none'} of {pluralize(missed.of, 'defective part')}"
    bound = at_most(appraisal.misses_at_most)
    return f"{appraisal.name} missed {parts} at least once: misses at most {bound}, 95 % sure"


def study_remarks(source_study: ReadStudy, learnt_count: int) -> Iterator[str]:
    """Yield remarks on weaknesses of a study.

    Args:
        source_study: The study, with the facts of its files.
        learnt_count: Number of the study's pictures that the model has learnt from.
    """
    part_count = len(source_study.study.parts)
    if part_count < ENOUGH_PARTS:
        yield f"{pluralize(part_count, 'part')} show little, whatever the grade: take {ENOUGH_PARTS} at least"
    for name, count in source_study.same_pictures.items():
        yield (
            f"{name} gave {pluralize(count, 'part')} the very same score in two trials: the same picture was "
            "judged again, which is no repeat"
        )
    if learnt_count:
        pictures = pluralize(learnt_count, "picture")
        yield f"the model has learnt from {pictures} of the study: take parts new to it"


def agreement_page(
    source_study: ReadStudy,
    results: Agreement,
    claim: float,
    model: Sequence[tuple[str, str]],
    remarks: Iterable[str],
) -> str:
    """Return the page of a study.

    Args:
        source_study: The study, with the facts of its files.
        results: The study's results.
        claim: Miss rate that is to be claimed.
        model: Facts of the model, as (name, value).
        remarks: Remarks on the study.

    Raises:
        InputError: Jinja2 or WebP is missing.
    """
    require_libraries(plots=False)
    study = source_study.study
    environment = html.environment(read_asset)
    environment.globals |= {"share": share_text, "kappa": kappa_text, "spaced": spaced, "name": printable}
    wrong_parts = list(_wrong_parts(source_study))
    defective_count = int(study.defective.sum())
    good_count = len(study.parts) - defective_count
    rates = []
    for key, label in RATES.items():
        acceptable, marginal = limits_text(key)
        rates.append((key, label, acceptable, marginal))
    sources = []
    for source in source_study.sources:
        sources.append((printable(str(source.path)), source.sha256, printable(source.run)))
    sentences = [claim_sentence(claim)]
    sentences += [shown_sentence(appraiser) for appraiser in results.appraisers]
    facts = [
        ("Made", f"{time_text()}, flawscope {__version__}"),
        ("Parts", f"{len(study.parts)}: {good_count} good, {defective_count} defective"),
        ("Trials", f"{study.trials} of each part by each appraiser"),
        ("Appraisers", printable(", ".join(study.decisions))),
    ]
    text: str = environment.get_template("agreement.html.j2").render(
        style=environment.filters["safe"](read_asset("pages.css")),
        remarks=[printable(remark) for remark in remarks],
        facts=facts,
        results=results,
        rates=rates,
        kappas=KAPPAS,
        claims=[printable(sentence) for sentence in sentences],
        new_pictures=NEW_PICTURES,
        wrong=wrong_parts[:MAX_PARTS],
        all_wrong=len(wrong_parts),
        sources=sources,
        model=[(title, printable(value)) for title, value in model],
    )
    return text


def spaced(key: str) -> str:
    """Return a key with spaces in place of underscores, for a person."""
    return key.replace("_", " ")


def limits_text(name: str) -> tuple[str, str]:
    """Return AIAG's limits of a rate as text: for acceptable, and for marginal; dashes if there are none."""
    if name not in agreement.LIMITS:
        return "–", "–"
    acceptable, marginal = agreement.LIMITS[name]
    sign = "≤" if acceptable < marginal else "≥"
    return f"{sign} {percent(acceptable)}", f"{sign} {percent(marginal)}"


def _wrong_parts(source_study: ReadStudy) -> Iterator[tuple[str, str, list[str]]]:
    """Yield parts with a wrong decision in any trial: name, reference, decisions of each appraiser."""
    study = source_study.study
    for index, part in enumerate(study.parts):
        is_defective = study.defective[index]
        decisions = [appraiser_decisions[index] for appraiser_decisions in study.decisions.values()]
        if not any((trials != is_defective).any() for trials in decisions):
            continue
        reference = "defective" if is_defective else "good"
        yield printable(part), reference, [_letters(trials) for trials in decisions]


def _letters(decisions: NDArray[np.bool_]) -> str:
    """Return an appraiser's decisions on a part as text: D (defective) or G (good) for each trial."""
    return " ".join("D" if is_defective else "G" for is_defective in decisions)
