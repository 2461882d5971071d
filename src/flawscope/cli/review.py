"""Sort flagged pictures into good and defective, in the browser; the decisions become folders to fit with."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common
from flawscope.errors import InputError, pluralize
from flawscope.evaluation import report

if TYPE_CHECKING:
    from flawscope.evaluation.report.pages import ReviewedPicture
    from flawscope.evaluation.result import PictureStore
    from flawscope.predictor import Predictor
    from flawscope.progress import ProgressCallback
    from flawscope.results.review import ReviewSession

REVIEW_FOLDER, AFTER_PAGE = "review", "after.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", metavar="RESULTS", help="folder of `predict --out` or `evaluate --out`, or its table, .csv"
    )
    parser.add_argument(
        "--out", metavar="DIR", help=f"where decisions and copies go (default: {REVIEW_FOLDER} in RESULTS)"
    )
    parser.add_argument("--all", action="store_true", help="review the good pictures, too")
    parser.add_argument(
        "--after",
        metavar="MODEL",
        help="judge the reviewed pictures with this model and show before and after, instead of reviewing",
    )
    parser.add_argument("--json", action="store_true", help="with --after: print one JSON document")
    parser.add_argument(
        "--port", type=common.parse_port, default=0, metavar="N", help="of the page (default: a free one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the page's address, open nothing")
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    if args.json and not args.after:
        raise InputError("--json prints what --after finds: add --after MODEL")
    report.require_libraries(plots=False)
    from flawscope.results.review import ReviewSession, read_review_pictures

    results = Path(args.results)
    pictures = read_review_pictures(results, every=args.all or bool(args.after))
    out = Path(args.out) if args.out else (results if results.is_dir() else results.parent) / REVIEW_FOLDER
    common.prepare_output_folder(str(out))
    session = ReviewSession(pictures, out)
    return _judge_again(args, session) if args.after else _review(args, session)


def _review(args: argparse.Namespace, session: ReviewSession) -> int:
    from flawscope.results.review.server import ReviewServer

    review = ReviewServer(session, Path(args.results).resolve().name, args.port)
    common.say(f"review: {review.url}")
    common.say("end it in the page or with Ctrl-C; what is decided is kept, the same call goes on with it")
    if not args.no_browser and _has_screen():
        webbrowser.open(review.url)
    try:
        review.serve()
    except KeyboardInterrupt:
        common.say("")
    if not args.quiet:
        for line in next_steps(args.results, session):
            common.say(line)
    return common.report_failures(session.problems)


def _has_screen() -> bool:
    """Whether there is a screen: without one a browser that runs in the terminal might be opened there."""
    known = sys.platform in ("win32", "darwin")
    return known or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def next_steps(results: str, session: ReviewSession) -> Iterator[str]:
    """Yields lines: a count of the decisions, and how to go on."""
    from flawscope.results.review import DEFECT, GOOD

    tally, out = session.tally(), session.out
    done, every = sum(tally.values()), len(session.pictures)
    sorts = f"{tally[GOOD]} good, {pluralize(tally[DEFECT], 'defect')}"
    yield f"{done} of {pluralize(every, 'picture')} decided: {sorts}"
    if tally[GOOD]:
        yield f"good pictures are in {out / GOOD}; PatchCore learns them, and looks at the defects, with"
        yield f"  flawscope fit --update MODEL --data {out} --out NEW.safetensors"
        yield "  (other methods: put them to the good pictures and fit anew)"
    if tally[DEFECT]:
        masks = pluralize(len(list((out / "masks" / DEFECT).glob("*.png"))), "mask")
        yield f"defects are in {out / DEFECT}, {masks} outlined by the model beside it: look at these; then"
        yield f"  flawscope fit --method prnet --seen {out / DEFECT} --data GOOD --out NEW.safetensors"
    if done:
        yield f"then, before and after: flawscope review {results} --after NEW.safetensors"


def _judge_again(args: argparse.Namespace, session: ReviewSession) -> int:
    """Judges the copies of the reviewed pictures with a new model, and shows before and after."""
    from flawscope.evaluation.report.pages import review_comparison_page, review_sentences
    from flawscope.evaluation.result import PictureStore
    from flawscope.predictor import load

    if not session.decisions():
        raise InputError(f"nothing in {session.out} is decided yet: review first, without --after")
    predictor = load(args.after, engine=args.engine, device=args.device, threads=args.threads)
    kept = PictureStore(lambda geometry: geometry.visible_mask())
    failures: list[str] = []
    pictures = list(_judge_copies(session, predictor, kept, failures, common.progress_for(args)))
    if not pictures:
        raise InputError(f"none of the reviewed pictures can be judged: {failures[0]}")
    document = {"pictures": [one.to_dict() for one in pictures], "summary": review_sentences(pictures)}
    common.show_document(args, document, lambda: format_reviewed(pictures))
    white = predictor.manifest.preprocess.white_level
    name = Path(args.after).name
    page = report.write_page(
        session.out / AFTER_PAGE, review_comparison_page(name, pictures, kept.pictures, white)
    )
    if not args.quiet:
        common.say(f"page: {page}")
    return common.report_failures(failures)


def _judge_copies(
    session: ReviewSession,
    predictor: Predictor,
    kept: PictureStore,
    failures: list[str],
    step: ProgressCallback,
) -> Iterator[ReviewedPicture]:
    """Yields every reviewed picture with the new model's prediction; the maps go to `kept`."""
    from flawscope.datasets import Item
    from flawscope.evaluation.report.pages import ReviewedPicture
    from flawscope.pictures.decoding import pixel_hash
    from flawscope.results.review import DEFECT

    known = {picture.hash for picture in predictor.manifest.pictures}
    copies = session.copies()
    results = predictor.stream([path for _, _, path in copies])
    for done, ((one, decision, path), (_, result)) in enumerate(zip(copies, results, strict=True), start=1):
        step("judging again", done, len(copies))
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        kept.append(Item(path, decision, decision == DEFECT), result, None)
        yield ReviewedPicture(
            name=one.name,
            defective=decision == DEFECT,
            learnt=pixel_hash(predictor.manifest.preprocess.decode(path)) in known,
            called_before=one.row.decision == "anomalous",
            severity_before=one.row.severity or 0.0,
            score_before=one.row.score or 0.0,
            before=one.overlay,
            after=kept.predictions[-1],
        )


def format_reviewed(pictures: Sequence[ReviewedPicture]) -> str:
    """Text that compares the models before and after, for a person."""
    from flawscope.evaluation.report.pages import count_decisions, review_sentences

    rows = [
        ("good", *count_decisions(pictures, defective=False, learnt=False)),
        ("good, learnt by the new model", *count_decisions(pictures, defective=False, learnt=True)),
        ("defect", *count_decisions(pictures, defective=True)),
    ]
    header = ("reviewed", "pictures", "anomalous before", "after")
    shown = common.format_table([row for row in rows if row[1]], header)
    return "\n\n".join([shown, "\n".join(review_sentences(pictures))])
