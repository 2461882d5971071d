"""Cameras that are behind: does a trigger ever get a frame that was exposed before it?

    python bench/behind.py
    python bench/behind.py --triggers 1000 --busy 4

Each camera sends MJPEG over HTTP from a process of its own, 25 frames a second, some milliseconds after it
exposed them; a frame shows when that was, by the clock that both processes share. Its latency is measured
with a light, as `flawscope station latency` does, and is the setting of the source that then takes a frame
for each of many triggers at random moments, idle and beside processes that keep all cores busy.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

import common
from common import Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))

from camera_helpers import DelayedCamera, exposed_at
from station_helpers import until

BEHIND = (0.0, 0.1, 0.4, 1.0)  # seconds
PERIOD = 0.25  # seconds from trigger to trigger, on average


def be_camera(behind: float, light: Any, pipe: Any) -> None:
    """Send frames until the process is ended; the light is another process's."""
    camera = DelayedCamera(behind)
    pipe.send(camera.address)
    while True:
        camera.light = light.value
        time.sleep(0.001)


def be_busy() -> None:
    while True:
        np.ones((200, 200)) @ np.ones((200, 200))


@contextmanager
def processes(count: int, work: Any, *given: Any) -> Iterator[None]:
    made = [multiprocessing.Process(target=work, args=given, daemon=True) for _ in range(count)]
    for one in made:
        one.start()
    try:
        yield
    finally:
        for one in made:
            one.kill()
            one.join()


def triggered(args: Args, behind: float, busy: int) -> Cell:
    """Measure the camera's latency, then trigger; milliseconds from a trigger to its frame's exposure."""
    from flawscope_station.settings.sources import CameraSourceSettings
    from flawscope_station.settings.station import Limits
    from flawscope_station.sources.camera import FfmpegCamera
    from flawscope_station.sources.latency import measure_latency
    from flawscope_station.sources.source import RUNNING, NoFrameError, QueueShare, SourceContext

    light, (ours, theirs) = multiprocessing.Value("i", 0), multiprocessing.Pipe()

    def set_light(is_on: bool) -> float:
        at, light.value = time.monotonic(), 255 * is_on
        return at

    with processes(1, be_camera, behind, light, theirs):
        address = ours.recv()
        found = measure_latency(
            CameraSourceSettings(address), 10**6, set_light, args.changes, (behind + 0.5, behind + 1.0)
        )
        settings = CameraSourceSettings(address, "trigger", latency=f"{1000 * found.setting:.0f} ms")
        line: Any = SourceContext(1, lambda _: [Future()], lambda *_: None, None, QueueShare(Limits()))  # type: ignore[arg-type]
        source, rng = FfmpegCamera(line, settings, 1), random.Random(args.seed)
        source.start()
        until(lambda: source.state.state == RUNNING)
        after, answered, faults = [], [], 0
        with processes(busy, be_busy):
            for _ in range(args.triggers):
                time.sleep(rng.uniform(0, 2 * PERIOD))
                at = time.monotonic()
                waiting = source.next_shot()
                try:
                    frame = waiting.result(5.0).frame
                except (TimeoutError, NoFrameError):
                    source.forget(waiting)
                    faults += 1
                    continue
                answered.append(1000 * (time.monotonic() - at))
                after.append(1000 * (exposed_at(frame) - at))
        source.stop(2.0)
    measured = {"shortest_ms": 1000 * found.shortest, "longest_ms": 1000 * found.longest}
    times = {
        f"exposed_after_ms_{n}": float(f(after))
        for n, f in (("min", min), ("median", np.median), ("max", max))
    }
    return {
        **measured,
        "latency_ms": 1000 * found.setting,
        "triggers": args.triggers,
        "before": sum(one < 0 for one in after),
        "no_frame": faults,
        **times,
        "answered_ms_median": float(np.median(answered)),
    }


def main() -> int:
    parser = common.make_parser(__doc__, "behind", data=False)
    parser.add_argument("--triggers", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--changes", type=int, default=12, help="of the light (default: %(default)s)")
    parser.add_argument("--busy", type=int, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.set_defaults(behind=BEHIND)
    args = common.parse_arguments(parser, triggers=3, changes=4, busy=0, behind=BEHIND[1:2])
    record = common.Record(args, "cameras that are behind: the frame of a trigger")
    rows = []
    for behind in args.behind:
        for busy in {0, args.busy}:
            name = f"{1000 * behind:.0f} ms/{busy} busy"
            cell = record.cell(name, partial(triggered, args, behind, busy))
            rows.append(
                {
                    "camera": name,
                    **{k: common.round_to(v, 3) for k, v in common.without_metadata(cell).items()},
                }
            )
    common.print_table("wanted: 0 before", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
