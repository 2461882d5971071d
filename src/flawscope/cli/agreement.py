"""Measure, by AIAG's attribute study, how far a model and people agree with known parts.

The figures are effectiveness, misses, false alarms and kappa.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common
from flawscope.errors import InputError
from flawscope.pages import report

if TYPE_CHECKING:
    from flawscope.evaluation.agreement import Agreement, Appraisal
    from flawscope.evaluation.trials import ReadStudy
    from flawscope.types import Json

PAGE_SUFFIX = ".html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope agreement` to its parser."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="TRIALS.csv|RESULTS",
        help="Tables of trials (part, appraiser, trial, decision), and folders of `predict --out`, each one "
        "trial of its model on new pictures, named by the part.",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE.csv|FOLDER",
        help="Table (part, reference) that says which parts are defective, or a folder with pictures named "
        "by the part, the good ones in good, ok, iO, ... (default: the column reference of the trials).",
    )
    parser.add_argument("--model", metavar="MODEL", help="Model file, for its facts and hash on the page.")
    parser.add_argument(
        "--claim",
        metavar="RATE",
        type=common.parse_rate,
        default="2%",
        help="Miss rate to be claimed; without sources it only says how many parts that takes (default: 2%%, "
        "AIAG's limit).",
    )
    parser.add_argument("--out", metavar="PAGE.html", help="Write the page to print and file.")
    common.add_json(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the study that a call names, print it and write its page; return 0."""
    from flawscope.pages.report.agreement import agreement_page, claim_sentence, study_remarks

    if not args.sources:
        for name in ("reference", "model", "out"):
            if getattr(args, name):
                raise InputError(
                    f"--{name} needs a study: name tables of trials, or folders of `predict --out`"
                )
        common.show_document(args, {"claim": claim_facts(args.claim)}, lambda: claim_sentence(args.claim))
        return 0
    if args.out:
        if not args.out.lower().endswith(PAGE_SUFFIX):
            raise InputError(f"--out {args.out}: a page ends in {PAGE_SUFFIX}")
        report.require_libraries(plots=False)

    from flawscope.evaluation.agreement import measure_agreement
    from flawscope.evaluation.trials import read_study

    reference = Path(args.reference) if args.reference else None
    source_study = read_study([*map(Path, args.sources)], reference)
    study = source_study.study
    model_rows: list[tuple[str, str]] = []
    learnt_count = 0
    if args.model:
        model_rows, learnt_count = _model_facts(args.model, source_study)
    agreement = measure_agreement(study)
    remarks = [*study_remarks(source_study, learnt_count)]
    document = {
        "parts": len(study.parts),
        "defective": int(study.defective.sum()),
        "trials": study.trials,
        **asdict(agreement),
        "claim": claim_facts(args.claim),
        "remarks": remarks,
        "sources": [{"path": str(source.path), "sha256": source.sha256} for source in source_study.sources],
        "model": dict(model_rows),
    }
    common.show_document(args, document, lambda: format_agreement(agreement, args.claim, remarks))
    if args.out:
        page = agreement_page(source_study, agreement, args.claim, model_rows, remarks)
        path = report.write_page(args.out, page)
        say = common.say_unless_quiet(args)
        say(f"page: {path}")
    return 0


def claim_facts(rate: float) -> Json:
    """Return facts on the claim of a miss rate.

    Returns:
        `miss_rate`, the rate; and `parts_by_misses`: for each number of missed parts, the number of defective
        parts that are needed to show the rate.
    """
    from flawscope.evaluation.agreement import parts_needed
    from flawscope.pages.report.agreement import ALLOWED_MISSES

    parts_by_misses = {misses: parts_needed(rate, misses) for misses in ALLOWED_MISSES}
    return {"miss_rate": rate, "parts_by_misses": parts_by_misses}


def _model_facts(path: str, source_study: ReadStudy) -> tuple[list[tuple[str, str]], int]:
    """Return rows of facts on a model, and how many of the study's pictures it has learnt from."""
    from flawscope.artefact.files import file_sha256
    from flawscope.pages.report.words import model_facts
    from flawscope.pictures.decoding import decode, pixel_hash
    from flawscope.predictor.router import read_facts

    model = read_facts(path)
    learnt_hashes = {picture.hash for picture in model.pictures}
    channels = model.channels
    judged_files = set[str]()
    for source in source_study.sources:
        judged_files.update(name for name in source.pictures if os.path.isfile(name))
    facts = [("file", os.path.basename(path)), ("SHA-256", file_sha256(path))]
    for product, manifest in model.manifests.items():
        prefix = f"{product}: " if product else ""
        facts += [(prefix + title, value) for title, value in model_facts(manifest)]
    learnt_count = 0
    for name in judged_files:
        picture = decode(name) if channels is None else channels.read(name)
        if pixel_hash(picture) in learnt_hashes:
            learnt_count += 1
    return facts, learnt_count


def format_agreement(agreement: Agreement, claim: float, remarks: Iterable[str]) -> str:
    """Return the text of a study for a person: the main figures, the claimed miss rate and the remarks."""
    from flawscope.pages.report import agreement as words

    def appraiser_line(appraisal: Appraisal) -> str:
        rates = [f"{words.spaced(key)} {words.share_text(getattr(appraisal, key))}" for key in words.RATES]
        kappa = words.kappa_text(appraisal.kappas["cohen_reference"])
        return (
            f"{appraisal.name} is {appraisal.grade}: {'; '.join(rates)}; kappa against the reference {kappa}"
        )

    lines = [appraiser_line(appraisal) for appraisal in agreement.appraisers]
    lines.append(f"all alike in all trials: {words.share_text(agreement.agreeing)}")
    lines += [words.shown_sentence(appraisal) for appraisal in agreement.appraisers]
    lines.append(words.claim_sentence(claim))
    lines += [f"warning: {remark}" for remark in remarks]
    lines.append(words.NEW_PICTURES)
    return "\n".join(lines)
