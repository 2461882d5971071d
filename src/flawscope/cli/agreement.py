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
        if stray := [f"--{name}" for name in ("reference", "model", "out") if getattr(args, name)]:
            raise InputError(
                f"{stray[0]} needs a study: name tables of trials, or folders of `predict --out`"
            )
        common.show_document(args, {"claim": claim_facts(args.claim)}, lambda: claim_sentence(args.claim))
        return 0
    if args.out:
        if not args.out.lower().endswith(PAGE_SUFFIX):
            raise InputError(f"--out {args.out}: a page ends in {PAGE_SUFFIX}")
        report.require_libraries(plots=False)

    from flawscope.evaluation.agreement import measure_agreement
    from flawscope.evaluation.trials import read_study

    read = read_study([*map(Path, args.sources)], Path(args.reference) if args.reference else None)
    model, learnt = _model_facts(args.model, read) if args.model else ([], 0)
    found = measure_agreement(read.study)
    remarks = [*study_remarks(read, learnt)]
    document = {
        "parts": len(read.study.parts),
        "defective": int(read.study.defective.sum()),
        "trials": read.study.trials,
        **asdict(found),
        "claim": claim_facts(args.claim),
        "remarks": remarks,
        "sources": [{"path": str(source.path), "sha256": source.sha256} for source in read.sources],
        "model": dict(model),
    }
    common.show_document(args, document, lambda: format_agreement(found, args.claim, remarks))
    if args.out:
        page = report.write_page(args.out, agreement_page(read, found, args.claim, model, remarks))
        common.say_unless_quiet(args)(f"page: {page}")
    return 0


def claim_facts(rate: float) -> Json:
    """Return the claimed miss rate, and how many parts it takes by the number of misses among them."""
    from flawscope.evaluation.agreement import parts_needed
    from flawscope.pages.report.agreement import ALLOWED_MISSES

    return {"miss_rate": rate, "parts_by_misses": {k: parts_needed(rate, k) for k in ALLOWED_MISSES}}


def _model_facts(path: str, read: ReadStudy) -> tuple[list[tuple[str, str]], int]:
    """Return a model's facts with its hash, and how many pictures of the runs it was fitted on."""
    from flawscope.artefact.files import file_sha256
    from flawscope.pages.report.words import model_facts
    from flawscope.pictures.decoding import decode, pixel_hash
    from flawscope.predictor.router import read_facts

    known = read_facts(path)
    learnt = {picture.hash for picture in known.pictures}
    channels = known.channels
    judged = {name for source in read.sources for name in source.pictures if os.path.isfile(name)}
    facts = [("file", os.path.basename(path)), ("SHA-256", file_sha256(path))]
    for name, manifest in known.manifests.items():
        facts += [(f"{name}: {what}" if name else what, value) for what, value in model_facts(manifest)]
    count = 0
    for name in judged:
        picture = decode(name) if channels is None else channels.read(name)
        count += pixel_hash(picture) in learnt
    return facts, count


def format_agreement(found: Agreement, claim: float, remarks: Iterable[str]) -> str:
    """Text of a study, for a person: the main figures."""
    from flawscope.pages.report import agreement as words

    def line(appraisal: Appraisal) -> str:
        rates = [f"{words.spaced(key)} {words.share_text(getattr(appraisal, key))}" for key in words.RATES]
        kappa = words.kappa_text(appraisal.kappas["cohen_reference"])
        return (
            f"{appraisal.name} is {appraisal.grade}: {'; '.join(rates)}; kappa against the reference {kappa}"
        )

    lines = [line(appraiser) for appraiser in found.appraisers]
    lines.append(f"all alike in all trials: {words.share_text(found.agreeing)}")
    lines += [words.shown_sentence(appraiser) for appraiser in found.appraisers]
    lines.append(words.claim_sentence(claim))
    lines += [f"warning: {remark}" for remark in remarks]
    lines.append(words.NEW_PICTURES)
    return "\n".join(lines)
