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
ENOUGH_PARTS = 50  # AIAG's example
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
    """Format a rate that is claimed, which may be far below a percent."""
    return f"{100 * rate:.3g}\N{NO-BREAK SPACE}%"


def claim_sentence(rate: float) -> str:
    """Return a sentence on the number of defective parts that the claim of a miss rate needs."""
    needed = [f"{agreement.parts_needed(rate, k):,} with {k or 'none'} missed" for k in ALLOWED_MISSES]
    return f"to claim misses of at most {at_most(rate)}, 95 % sure, defective parts: {', '.join(needed)}"


def shown_sentence(appraisal: Appraisal) -> str:
    """Return a sentence on the miss rate that an appraiser's trials show."""
    parts = (
        f"{appraisal.ever_missed.number or 'none'} of {pluralize(appraisal.ever_missed.of, 'defective part')}"
    )
    bound = at_most(appraisal.misses_at_most)
    return f"{appraisal.name} missed {parts} at least once: misses at most {bound}, 95 % sure"


def study_remarks(read: ReadStudy, learnt: int) -> Iterator[str]:
    """Yield remarks on weaknesses of a study.

    Args:
        read: The study.
        learnt: Number of its pictures that the model was fitted on.
    """
    if (count := len(read.study.parts)) < ENOUGH_PARTS:
        yield f"{pluralize(count, 'part')} show little, whatever the grade: take {ENOUGH_PARTS} at least"
    for name, parts in read.same_pictures.items():
        yield (
            f"{name} gave {pluralize(parts, 'part')} the very same score in two trials: the same picture was "
            "judged again, which is no repeat"
        )
    if learnt:
        yield f"the model has learnt from {pluralize(learnt, 'picture')} of the study: take parts new to it"


def agreement_page(
    read: ReadStudy, found: Agreement, claim: float, model: Sequence[tuple[str, str]], remarks: Iterable[str]
) -> str:
    """Return the page of a study.

    Args:
        read: The study.
        found: Its results.
        claim: Miss rate that is to be shown.
        model: Facts of the model, as (name, value).
        remarks: Remarks on the study.

    Raises:
        InputError: Jinja2 or WebP is missing.
    """
    require_libraries(plots=False)
    study = read.study
    environment = html.environment(read_asset)
    environment.globals |= {"share": share_text, "kappa": kappa_text, "spaced": spaced, "name": printable}
    disputed = list(_disputed(read))
    defective = int(study.defective.sum())
    rates = [(key, label, *limits_text(key)) for key, label in RATES.items()]
    sources = [(printable(str(source.path)), source.sha256, printable(source.run)) for source in read.sources]
    sentences = [claim_sentence(claim)]
    sentences += [shown_sentence(appraiser) for appraiser in found.appraisers]
    facts = [
        ("Made", f"{time_text()}, flawscope {__version__}"),
        ("Parts", f"{len(study.parts)}: {len(study.parts) - defective} good, {defective} defective"),
        ("Trials", f"{study.trials} of each part by each appraiser"),
        ("Appraisers", printable(", ".join(study.decisions))),
    ]
    shown_remarks = [printable(remark) for remark in remarks]
    model_rows = [(what, printable(value)) for what, value in model]
    text: str = environment.get_template("agreement.html.j2").render(
        style=environment.filters["safe"](read_asset("pages.css")),
        remarks=shown_remarks,
        facts=facts,
        found=found,
        rates=rates,
        kappas=KAPPAS,
        claims=[printable(sentence) for sentence in sentences],
        new_pictures=NEW_PICTURES,
        wrong=disputed[:MAX_PARTS],
        all_wrong=len(disputed),
        sources=sources,
        model=model_rows,
    )
    return text


def spaced(key: str) -> str:
    """Return a key with spaces in place of underscores, for a person."""
    return key.replace("_", " ")


def limits_text(name: str) -> tuple[str, str]:
    """Return AIAG's limits of a rate, acceptable and marginal, in words; dashes where there are none."""
    if name not in agreement.LIMITS:
        return "–", "–"
    first, second = agreement.LIMITS[name]
    sign = "≤" if first < second else "≥"
    return f"{sign} {percent(first)}", f"{sign} {percent(second)}"


def _disputed(read: ReadStudy) -> Iterator[tuple[str, str, list[str]]]:
    """Yield parts with a wrong decision in any trial: name, reference, decisions of each appraiser."""
    study = read.study
    for k, part in enumerate(study.parts):
        decisions = [called[k] for called in study.decisions.values()]
        if not any((called != study.defective[k]).any() for called in decisions):
            continue
        reference = "defective" if study.defective[k] else "good"
        yield printable(part), reference, [_letters(called) for called in decisions]


def _letters(decisions: NDArray[np.bool_]) -> str:
    """Return an appraiser's decisions on a part: D (defective) or G (good), trial by trial."""
    return " ".join("D" if is_defective else "G" for is_defective in decisions)
