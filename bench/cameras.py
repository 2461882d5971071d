"""Cameras that freeze, repeat, skip and come back: is a part answered from an earlier frame, and how soon
does a PLC see that the station is not ready?

    python bench/cameras.py
    python bench/cameras.py --kinds mjpeg --parts 40

A station on SQLite judges parts that come by HTTP triggers and by a PLC over Modbus, in turn, while the
camera goes on, sends a frame again once or for a while, is silent, or goes away and comes back, at times
that are drawn. Each frame shows when it was exposed; the picture of each answer is read, and must be of a
time after its trigger. Another PLC reads Ready all the time.

mjpeg    over HTTP, from a thread of this process
rtsp     GStreamer's server, H.264
basler   pylon's emulated camera (PYLON_CAMEMU), whose device gives frames again, loses them and fails
genicam  Aravis' fake camera over GigE Vision, likewise

Streams are read by `flawscope serve` in a process of its own; industrial cameras, whose device is spoiled
here, by a station of this process. They expose on a trigger alone.

earlier: answers from a frame before the trigger. while_ready: repeats that came while Ready was true; the
milliseconds are of these, from the sending of the frame. rose: repeats with Ready true again, 50 ms later
and before a new frame came.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
from PIL import Image

import common
from common import Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "line" / "tests"))
sys.path.insert(0, str(common.ROOT / "examples" / "line"))

import plc_helpers
import plugin_helpers
from camera_helpers import DelayedCamera, Rtsp, time_in
from station_helpers import Listening, Served, free_port, opened, until

os.environ.setdefault("PYLON_CAMEMU", "1")
LATENCY = {"mjpeg": "100 ms", "rtsp": "400 ms"}  # allowed for, generously: what counts is what is repeated
LATE = 0.0002  # seconds: the clock that frames show is coarse
FATES = {
    "go": (0.3, 1.2),
    "repeat": (0.05, 0.07),
    "freeze": (0.1, 0.8),
    "silent": (0.05, 0.5),
    "away": (0.2, 0.6),
}
WEIGHTS = (10, 6, 6, 4, 1)


class Stamped:
    """A device whose frames show when they were exposed, in the first four pixels, and that is spoiled.

    fate: `go`, `freeze` (the frame before comes again, under a new number), `silent` (none comes), `away`.
    """

    fate = "go"
    repeated_at: ClassVar[list[float]] = []  # when a frame came again, and the one before was no repeat
    _was_repeat = False

    def __init__(self, inner: Any):
        self._inner, self._last = inner, None
        self._number = 0

    def _check(self) -> None:
        from flawscope_station.plugins import CameraLostError

        if Stamped.fate == "away":
            raise CameraLostError("its cable is out")

    def trigger(self) -> None:
        self._check()
        self._exposed = int(time.monotonic() * 1e4) % 2**32
        self._inner.trigger()

    def next(self, seconds: float) -> Any:
        from av import VideoFrame

        from flawscope_line.industrial_cameras.camera import NumberedFrame

        self._check()
        frame = self._inner.next(seconds)
        if frame is None or Stamped.fate == "silent":
            return None
        if frame.picture is None:
            return frame
        if Stamped.fate == "freeze" and self._last is not None:
            if not self._was_repeat:
                self.repeated_at.append(time.monotonic())
            self._was_repeat = True
            return NumberedFrame(frame.number, self._last, frame.clock)
        array = frame.picture.to_ndarray().copy()
        array[0, :4] = np.frombuffer(self._exposed.to_bytes(4, "little"), np.uint8)
        self._was_repeat = False
        self._last = VideoFrame.from_ndarray(array, format="gray")
        return NumberedFrame(frame.number, self._last, frame.clock)

    def close(self) -> None:
        self._inner.close()


class Ready:
    """Reads over a wire of its own when the station is ready."""

    def __init__(self, port: int):
        from emulated_line.plc import ModbusClient

        self._wire, self._ended = ModbusClient("127.0.0.1", port), threading.Event()
        self.seen: list[tuple[float, bool]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.wait(0.002):
            with suppress(Exception):
                self.seen.append((time.monotonic(), bool(self._wire.read()["ready"])))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(10)
        self._wire.close()

    def was_ready(self, at: float) -> bool:
        return next((ready for one, ready in reversed(self.seen) if one < at), False)

    def rose_within(self, begin: float, end: float) -> bool:
        return any(ready for one, ready in self.seen if begin <= one < end)

    def fell_after(self, at: float) -> float | None:
        """Seconds from a moment until a reader knew that the station is not ready; None: it never did."""
        return next((one - at for one, ready in self.seen if one >= at and not ready), None)


@contextmanager
def mjpeg(stack: ExitStack) -> Iterator[tuple[str, Callable[[str], None], list[float]]]:
    camera = DelayedCamera(0.0)
    stack.callback(camera.close)

    def fate(word: str) -> None:
        camera.is_frozen, camera.is_silent, camera.is_away = (
            word == "freeze",
            word == "silent",
            word == "away",
        )

    yield camera.address, fate, camera.repeated_at


@contextmanager
def rtsp(stack: ExitStack) -> Iterator[tuple[str, Callable[[str], None], list[float]]]:
    server, repeated = Rtsp("clock"), list[float]()
    stack.callback(server.kill)

    def start() -> None:
        server.start()
        threading.Thread(target=listen, args=(server.process.stdout,), daemon=True).start()

    def listen(stream: Any) -> None:
        with suppress(ValueError):  # it was closed
            repeated.extend(map(float, stream))

    def fate(word: str) -> None:
        if word == "away":
            server.kill()
        elif server.process is None:
            start()
        if server.process is not None:
            server.say(word)

    start()
    yield f"rtsp://{server.host}/stream", fate, repeated


def industrial(kind: str) -> Callable[..., Any]:
    @contextmanager
    def made(stack: ExitStack) -> Iterator[tuple[str, Callable[[str], None], list[float]]]:
        if kind == "genicam":
            words = ["arv-fake-gv-camera-0.8", "-i", "127.0.0.1", "-s", "FV01"]
            fake = subprocess.Popen(words)
            stack.callback(fake.wait)
            stack.callback(fake.kill)
            from flawscope_line.industrial_cameras import aravis as module

            name = "AravisDevice"
        else:
            from flawscope_line.industrial_cameras import pylon as module

            name = "PylonDevice"
        inner = getattr(module, name)
        setattr(module, name, lambda settings: Stamped(inner(settings)))
        stack.callback(setattr, module, name, inner)
        Stamped.repeated_at.clear()
        yield "", partial(setattr, Stamped, "fate"), Stamped.repeated_at
        Stamped.fate = "go"

    return made


KINDS: dict[str, Callable[..., Any]] = {
    "mjpeg": mjpeg,
    "rtsp": rtsp,
    "basler": industrial("basler"),
    "genicam": industrial("genicam"),
}


class Spoiler:
    """Lets fates come over a camera, at drawn times. seen: how many of each."""

    def __init__(self, fate: Callable[[str], None], seed: int):
        self._fate, self._random, self._ended = fate, random.Random(seed), threading.Event()
        self.seen: Counter[str] = Counter()
        self.freezes: list[tuple[float, float]] = []  # from and until when
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            (word,) = self._random.choices([*FATES], WEIGHTS)
            self.seen[word] += 1
            begun = time.monotonic()
            self._fate("freeze" if word == "repeat" else word)
            self._ended.wait(self._random.uniform(*FATES[word]))
            if word in ("freeze", "repeat"):
                self.freezes.append((begun, time.monotonic()))
            if word != "go":  # new frames between two of them
                self._fate("go")
                self._ended.wait(self._random.uniform(*FATES["go"]))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)
        self._fate("go")


def station_text(kind: str, model: Path, store: Path, port: int, address: str) -> str:
    source = {"basler": "basler: {format: Mono8}", "genicam": "genicam: {format: Mono8}"}.get(
        kind, f"camera: {address}\n        every: trigger\n        latency: {LATENCY.get(kind)}"
    )
    return (
        f"products:\n  plate:\n    model: {model}\n    camera_checks: false\n    sources:\n      - {source}\n"
        f"store: {store}\nport: 0\nthreads: 1\ndevice: cpu\n"
        + plc_helpers.connection("modbus", port, {1: "plate"})
    )


def shown_time(kind: str, data: bytes) -> float:
    grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    if kind in LATENCY:
        return time_in(grey)
    return int.from_bytes(bytes(grey[0, :4]), "little") / 1e4


def measured(args: Args, kind: str, work: Path) -> Cell:
    """Parts behind one kind of camera."""
    model, _ = common.exported_model(work, args.size, train=24, good=12, side=args.side)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        site = plugin_helpers.install(Path(folder) / "site", common.ROOT / "line", plugin_helpers.LINE)
        port, path = free_port(), Path(folder) / "station.yaml"
        address, fate, repeated = stack.enter_context(KINDS[kind](stack))
        path.write_text(station_text(kind, model, Path(folder) / "store", port, address))
        if kind in LATENCY:
            here = os.pathsep.join((str(site), str(plugin_helpers.LINE), *common.SOURCES))
            station: Any = Served([str(path)], free_port(), {"PYTHONPATH": here})
            stack.callback(station.kill)
            station.start()
        else:
            from flawscope_station.settings.station import read_settings

            station = opened(read_settings(path), Listening)
            stack.callback(station.close)
        plc = plc_helpers.plc_at("modbus", port)
        stack.callback(plc.close)
        url = f"{station.url}/api/v1/products/plate"
        client = stack.enter_context(httpx.Client(base_url=f"{url}/", timeout=60))
        until(lambda: client.get(url).json()["sources"][0]["state"] == "running")
        ready = Ready(port)
        stack.callback(ready.close)
        assert plc.ready(1) is not None
        spoiler = Spoiler(fate, args.seed)
        stack.callback(spoiler.close)
        recent: deque[float] = deque(maxlen=1)
        begun = time.monotonic()
        while found["answered"] < args.parts or found["refused"] < args.parts // 10:
            part = f"P{found['answered'] + found['refused']}"
            by_plc = found["plc"] <= found["http"]
            if by_plc and plc.ready(1, 30) is None:
                raise SystemExit("the station does not become ready")
            at = time.monotonic()
            if by_plc:
                outcome, shown = plc.inspect(part)
                number = shown["inspection"] if outcome in ("ok", "nok") and shown else None
            else:
                answer = client.post("trigger", params={"part": part})
                found[f"http_{answer.status_code}"] += 1
                number = answer.json()["id"] if answer.status_code == 201 else None
            found["plc" if by_plc else "http"] += 1
            if number is None:
                found["refused"] += 1
                continue
            found["answered"] += 1
            exposed = shown_time(kind, client.get(f"inspections/{number}/picture").content)
            lateness = (exposed - at + 2**31 / 1e4) % (2**32 / 1e4) - 2**31 / 1e4
            found["earlier"] += lateness < -LATE
            found["the same again"] += exposed in recent
            recent.append(exposed)
        seconds = time.monotonic() - begun
        spoiler.close()
        time.sleep(1)  # what was repeated last is seen
        repeats = [*repeated]
        were_ready = [at for at in repeats if ready.was_ready(at)]
        falls = [fell for at in were_ready if (fell := ready.fell_after(at)) is not None]
        frozen = [(at, end) for at in repeats for begin, end in spoiler.freezes if begin <= at < end]
        found["rose"] = sum(ready.rose_within(at + 0.05, end) for at, end in frozen)
    cell: Cell = {"parts": found["answered"] + found["refused"], "seconds": round(seconds, 1), **found}
    cell |= {"earlier": found["earlier"], "the same again": found["the same again"]}
    cell |= {"fates": dict(spoiler.seen), "repeats": len(repeats), "rose": found["rose"]}
    cell["while_ready"] = len(were_ready)
    if falls:
        cell |= {f"ready_ms_p{p}": 1000 * float(np.percentile(falls, p)) for p in (50, 99, 100)}
        cell["over_50_ms"] = sum(fell > 0.05 for fell in falls)
    return cell


def main() -> int:
    parser = common.make_parser(__doc__, "cameras", data=False)
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--parts", type=int, default=200, help="answered ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens to the camera")
    parser.set_defaults(size="64", side=96)
    args = common.parse_arguments(parser, parts=10, kinds="mjpeg")
    record = common.Record(args, "cameras that freeze, repeat, skip and come back")
    with common.workspace(args.work) as work:
        cells = {k: record.cell(k, partial(measured, args, k, work)) for k in args.kinds.split(",")}
    shown = [
        "answered",
        "refused",
        "earlier",
        "the same again",
        "repeats",
        "while_ready",
        "ready_ms_p50",
        "ready_ms_p99",
    ]
    shown += ["ready_ms_p100", "over_50_ms", "rose"]
    rows = [{"camera": k, **{n: common.round_to(c.get(n), 3) for n in shown}} for k, c in cells.items()]
    common.print_table("parts, and milliseconds until Ready was false", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
