"""Run a station: it inspects pictures from folders and cameras, and keeps and shows the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from flawscope import cli
from flawscope.errors import InputError

if TYPE_CHECKING:
    from flawscope_station.settings.station import Settings

# Seconds after which Python switches to another thread. A picture passes through five threads, and may wait
# in each for that long: with Python's default of 5 ms, 25 ms.
SWITCH_INTERVAL = 0.0005
STOP_SECONDS = 75.0  # time limit of the end, even if a thread hangs: service managers kill after 90 s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope serve`."""
    inputs = parser.add_argument_group("what is inspected")
    inputs.add_argument(
        "model",
        nargs="?",
        metavar="MODEL|SETTINGS",
        help="Model file, or a station.yaml for several products. Without one, make products in the browser, "
        "on the page New product.",
    )
    inputs.add_argument("--folder", metavar="DIR", help="Take pictures that appear in this folder, too.")
    inputs.add_argument(
        "--product",
        metavar="NAME",
        help="Name of the product (default: the model's; of a joint model, its file's).",
    )
    storage = parser.add_argument_group("where results are kept")
    storage.add_argument(
        "--station", metavar="DIR", help="Folder in which everything is kept (default: station)."
    )
    storage.add_argument(
        "--database",
        metavar="URL",
        help="Database, such as postgresql://user@host/name (default: SQLite in the folder).",
    )
    pages = parser.add_argument_group("where the pages are")
    pages.add_argument(
        "--host",
        metavar="ADDRESS",
        help="Address to listen at (default: 127.0.0.1, this machine alone). Other machines need users.",
    )
    pages.add_argument("--port", type=cli.parse_port, metavar="N", help="Port to listen at (default: 8080).")
    running = parser.add_argument_group("running")
    cli.add_engine(running, "all cores but one")
    cli.add_quiet(running)


def run(args: argparse.Namespace) -> int:
    """Run a station until it is ended, by Ctrl-C or SIGTERM; return the exit code 0."""
    from flawscope_station.inspecting.memory import limit_malloc
    from flawscope_station.monitoring.background import Log, log_line

    limit_malloc()  # before threads are started
    sys.setswitchinterval(SWITCH_INTERVAL)
    settings = station_settings(args)
    write = cli.say_unless_quiet(args)
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed before the start
    # a person at a terminal reads the plain lines; a log file gets them with time and level
    say = Log(write if is_terminal else lambda line: write(log_line(line)))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's end acts as Ctrl-C
    try:
        with suppress(KeyboardInterrupt):
            _serve(settings, say)
    finally:
        say.close()
    return 0


def _serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Open the station, serve its pages until it is ended, and close it within `STOP_SECONDS`."""
    from flawscope_station.assembly import open_station
    from flawscope_station.web.app import StationServer, wait_for_disk_space
    from flawscope_station.web.templates import PAGES

    say("the station starts: it opens its store and its models")
    for line in PAGES.missing_texts:
        say(line)
    wait_for_disk_space(settings, say)
    station = open_station(settings, say)
    server = None
    end_timer = threading.Timer(STOP_SECONDS, _end_process, [say])
    end_timer.daemon = True

    def start_end_timer() -> None:
        if not end_timer.is_alive():
            end_timer.start()

    try:
        station.start()
        hint = "" if station.products else "; make the first product there"

        def say_open(url: str) -> None:
            say(f"the station is open: {url}  (Ctrl-C ends it){hint}")

        server = StationServer(station, say_open, start_end_timer)
        server.run()
    finally:
        if server is not None and server.started:
            say("ending: what was taken is answered first")
        start_end_timer()
        station.close()
        if station.has_ended:  # else a thread hangs, and the timer ends the process
            end_timer.cancel()


def _end_process(say: Callable[[str], None]) -> None:
    """Write a line to the log, and end the process at once, even if a thread hangs."""
    from flawscope_station.monitoring.background import Said

    say(Said(f"ended after {STOP_SECONDS:.0f} s, though something hangs", "error"))
    time.sleep(0.5)  # time for the thread that writes the log
    os._exit(1)


def station_settings(args: argparse.Namespace) -> Settings:
    """Return the settings of a station from the arguments of `flawscope serve`.

    `args.model` is a settings file, a model file or None. The other arguments override the file's settings.
    """
    from flawscope_station.settings.station import Settings, override_settings, read_settings

    if args.model is None:
        if args.folder or args.product:
            raise InputError("--folder and --product are of a model: name its file first")
        settings = Settings()
    elif os.path.splitext(args.model)[1].lower() in (".yaml", ".yml"):
        if args.folder or args.product:
            raise InputError(f"--folder and --product stand in {args.model}, below `products`")
        settings = read_settings(args.model)
    else:
        settings = _model_settings(args.model, args.product, args.folder)
    return override_settings(
        settings,
        store=args.station,
        database=args.database,
        host=args.host,
        port=args.port,
        engine=args.engine,
        device=None if args.device == "auto" else args.device,
        threads=args.threads,
    )


def _model_settings(model: str, product: str | None, folder: str | None) -> Settings:
    """Return the settings of a station with one product.

    Args:
        model: Model file of the product.
        product: Name of the product; None: the model's category, else the name of the file.
        folder: Folder whose pictures are inspected; None: none.
    """
    from flawscope.predictor import router
    from flawscope_station.settings.station import single_product_settings, suggest_product_name

    facts = router.read_facts(model)
    categories = {manifest.category for manifest in facts.manifests.values()}
    stem = os.path.splitext(os.path.basename(model))[0]
    has_one_category = not facts.is_joint and len(categories) == 1
    category = categories.pop() if has_one_category else ""
    return single_product_settings(model, product or suggest_product_name(category or stem), folder)
