"""Sort flagged pictures into good and defective, in the browser; the decisions become folders to fit with."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common
from flawscope.errors import join_names, pluralize
from flawscope.pages import report

if TYPE_CHECKING:
    from flawscope.pages.review.session import ReviewSession

REVIEW_FOLDER = "review"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope review` to its parser."""
    parser.add_argument(
        "results",
        metavar="RESULTS",
        help="Folder of `predict --out` or `evaluate --out`, or its table, .csv.",
    )
    parser.add_argument(
        "--out", metavar="DIR", help=f"Folder of decisions and copies (default: {REVIEW_FOLDER} in RESULTS)."
    )
    parser.add_argument(
        "--all", action="store_true", help="Review all good pictures, not only those near the threshold."
    )
    parser.add_argument(
        "--port",
        type=common.parse_port,
        default=0,
        metavar="N",
        help="Port of the page (default: a free one).",
    )
    parser.add_argument("--no-browser", action="store_true", help="Print the page's address, open nothing.")
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page of a review until a person ends it; return 1 if copies could not be made, else 0."""
    report.require_libraries(plots=False)
    from flawscope.pages.review.server import ReviewServer
    from flawscope.pages.review.session import ReviewSession, read_review_pictures

    results = Path(args.results)
    pictures = read_review_pictures(results, every=args.all)
    results_folder = results if results.is_dir() else results.parent
    out = Path(args.out) if args.out else results_folder / REVIEW_FOLDER
    common.prepare_output_folder(str(out))
    session = ReviewSession(pictures, out)
    if session.replaced:  # pictures that changed after they were decided
        count = pluralize(len(session.replaced), "picture")
        common.say(
            f"undecided again: {count} under the path of a decided one, and another by its pixels: "
            f"{join_names(session.replaced)}; the earlier copies stay in {out}"
        )
    server = ReviewServer(session, results.resolve().name, args.port)
    common.say(f"review: {server.url}")
    common.say("end it in the page or with Ctrl-C; what is decided is kept, the same call goes on with it")
    if not args.no_browser and _has_screen():
        webbrowser.open(server.url)
    try:
        server.serve()
    except KeyboardInterrupt:
        common.say("")  # ends the line in which the terminal shows ^C
    if not args.quiet:
        for line in next_steps(session):
            common.say(line)
    return common.report_failures(session.problems)


def _has_screen() -> bool:
    """Return whether there is a screen for a browser; if not, a browser in the terminal might be opened."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def next_steps(session: ReviewSession) -> Iterator[str]:
    """Yield lines for a person: the numbers of decisions, then commands that use the decided pictures."""
    from flawscope.pages.review.session import DEFECT, GOOD

    tally = session.tally()
    out = session.out
    decided_count = sum(tally.values())
    pictures = pluralize(len(session.pictures), "picture")
    yield f"{decided_count} of {pictures} decided: {tally[GOOD]} good, {pluralize(tally[DEFECT], 'defect')}"
    if tally[GOOD]:
        yield f"good pictures are in {out / GOOD}; PatchCore learns them, and looks at the defects, with"
        yield f"  flawscope fit --update MODEL --data {out} --out NEW.safetensors"
        yield "  (other methods: put them to the good pictures and fit anew)"
    if tally[DEFECT]:
        mask_count = len(list((out / "masks" / DEFECT).glob("*.png")))
        masks = pluralize(mask_count, "mask")
        yield f"defects are in {out / DEFECT}, {masks} outlined by the model beside it: look at these; then"
        yield f"  flawscope fit --method prnet --seen {out / DEFECT} --data GOOD --out NEW.safetensors"
    if decided_count:
        yield "then, on pictures that neither has seen: flawscope compare MODEL NEW.safetensors --data ROOT"
