"""A camera of 1920x1080 at 25 frames a second: what its frames cost before a model sees them.

    python bench/cameras.py

The film is drawn plates with the noise of a sensor, H.264, sent again and again by ffmpeg in a process of its
own as a live stream of MPEG-TS over HTTP.

encode      one frame to a file without loss, by format: processor time and bytes; as H.264 leaves it, and
            with all the noise, as a camera gives it that does not compress
camera      the station's camera alone, whose pictures are answered at once: processor time of decoding,
            converting and encoding, for each frame that is handed in; frames left out; memory
station     `flawscope serve` with the same camera and PatchCore at 256 px: pictures inspected and frames left
            out a second, memory
video       the same film as a file of 3,000 frames: frames a second that are decoded and passed over, as
            after a restart
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import common
from common import MIB, Args, Cell, Record

sys.path.insert(0, str(common.ROOT / "tests" / "station"))

import station_helpers as helpers
from station_helpers import Served

WIDTH, HEIGHT, RATE = 1920, 1080, 25
LOOP = 50  # frames of the film
PATIENCE = 60.0


def film(folder: Path, count: int, name: str) -> Path:
    """Drawn plates on a table, moving, with noise."""
    import av

    path = folder / name
    if path.is_file():
        return path
    data = common.draw(folder / "drawn", train=24, good=4, bad=2, size=512)
    plates = [np.asarray(Image.open(one).convert("RGB")) for one in common.pictures_below(data / "test")]
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 3, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(5)]
    draft = path.with_name(f".{name}")
    with av.open(str(draft), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "g": str(RATE)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(count):
            table = np.full((HEIGHT, WIDTH, 3), 90, np.int16)
            for place in range(3):
                x = (20 * number + place * 640) % (WIDTH - 512)
                table[284:796, x : x + 512] = plates[(number // 25 + place) % len(plates)]
            drawn = np.clip(table + noise[number % 5], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    draft.rename(path)
    return path


@contextmanager
def sent(path: Path) -> Iterator[str]:
    """The address of the film as a live stream, for one who listens."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise SystemExit("ffmpeg, which sends the film, is not installed: apt-get install ffmpeg")
    url = f"http://127.0.0.1:{helpers.free_port()}/live.ts"
    command = [program, "-loglevel", "fatal", "-re", "-stream_loop", "-1", "-i", str(path), "-c", "copy"]
    process = subprocess.Popen([*command, "-f", "mpegts", "-listen", "1", url])
    try:
        time.sleep(1)
        yield url
    finally:
        process.kill()
        process.wait()


# ----------------------------------------------------------------------------------------------------- encode


def encode(path: str, noise: float, repeats: int) -> Cell:
    """noise: standard deviation of what is added, of 255."""
    import av

    from flawscope.station.sources.frames import encoded

    with av.open(path) as container:
        frames = [frame for frame, _ in zip(container.decode(video=0), range(10), strict=False)]
    arrays = [frame.to_ndarray(format="rgb24") for frame in frames]
    if noise:
        rng = np.random.default_rng(0)
        arrays = [np.clip(a + rng.normal(0, noise, a.shape), 0, 255).astype(np.uint8) for a in arrays]
        frames = [av.VideoFrame.from_ndarray(array, format="rgb24") for array in arrays]

    def pillow(kind: str, **options: Any) -> Any:
        def work(place: int) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(arrays[place]).save(buffer, kind, **options)
            return buffer.getvalue()

        return work

    works = {
        "png, as the station": lambda place: encoded(frames[place], WIDTH * HEIGHT),
        "png, Pillow, level 1": pillow("PNG", compress_level=1),
        "bmp": pillow("BMP"),
        "tiff": pillow("TIFF"),
        "tiff, zstd": pillow("TIFF", compression="zstd"),
        "webp, lossless": pillow("WEBP", lossless=True, quality=0, method=0),
    }
    found = {}
    for name, work in works.items():
        work(0)
        begun, size = time.process_time(), 0
        for round_ in range(repeats):
            size += len(work(round_ % len(frames)))
        took = (time.process_time() - begun) / repeats
        found[name] = {"cpu_ms": common.sig(1000 * took, 3), "mb": common.sig(size / repeats / 1e6, 3)}
    return found


# ----------------------------------------------------------------------------------------------------- camera


def camera(url: str, every: str, seconds: float) -> Cell:
    """In a process of its own."""
    from types import SimpleNamespace

    from flawscope.station.memory import give_back
    from flawscope.station.settings import Limits
    from flawscope.station.sources.camera import Camera
    from flawscope.station.sources.settings import CameraOf
    from flawscope.station.sources.share import Share
    from flawscope.station.sources.source import Line

    give_back()
    count, size = [0], [0]

    def submit(pictures: Any) -> list[Future[Any]]:
        answer: Future[Any] = Future()
        count[0] += 1
        size[0] += len(pictures[0].data)
        answer.set_result(SimpleNamespace(number=count[0], is_new=True))
        return [answer]

    problems: dict[str, str | None] = {}
    given: Any = None
    line = Line(1, submit, problems.__setitem__, given, Share(Limits()))
    one = Camera(line, CameraOf(url, every), 1)
    one.start()
    ends = time.monotonic() + PATIENCE
    while not count[0] and time.monotonic() < ends:
        time.sleep(0.02)
    time.sleep(2)
    handed, dropped, bytes_ = count[0], one.state().dropped, size[0]
    begun, spent, memory = time.monotonic(), time.process_time(), []
    while time.monotonic() - begun < seconds:
        time.sleep(seconds / 20)
        memory.append(_resident("self") // MIB)
    took, spent = time.monotonic() - begun, time.process_time() - spent
    handed, dropped, bytes_ = count[0] - handed, one.state().dropped - dropped, size[0] - bytes_
    one.stop()
    return {
        "handed_in_per_second": common.sig(handed / took, 3),
        "left_out_per_second": common.sig(dropped / took, 3),
        "frames": handed + dropped,
        "cores": common.sig(spent / took, 3),
        "cpu_ms_per_picture": common.sig(1000 * spent / max(1, handed), 3),
        "mb_per_picture": common.sig(bytes_ / max(1, handed) / 1e6, 3),
        "memory_mib": memory,
    }


def _resident(process: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


# ---------------------------------------------------------------------------------------------------- station


def station(model: Path, url: str, every: str, seconds: float) -> Cell:
    with common.workspace(None) as folder:
        (folder / "station.yaml").write_text(
            f"products:\n  plate:\n    model: {model}\n    sources:\n      - camera: {url}\n"
            f"        every: {every}\nstore: store\n"
        )
        served = Served([str(folder / "station.yaml"), "--device", "cpu"], helpers.free_port())
        served.start()
        assert served.process is not None

        def known() -> Any:
            return httpx.get(f"{served.url}/api/v1/products/plate", timeout=60).json()["sources"][0]

        ends = time.monotonic() + PATIENCE
        while known()["taken"] < 5:
            assert time.monotonic() < ends, known()
            time.sleep(0.2)
        before, begun, memory = known(), time.monotonic(), []
        while time.monotonic() - begun < seconds:
            time.sleep(seconds / 20)
            memory.append(_resident(str(served.process.pid)) // MIB)
        after, took = known(), time.monotonic() - begun
        served.kill(15)
        return {
            "inspected_per_second": common.sig((after["taken"] - before["taken"]) / took, 3),
            "left_out_per_second": common.sig((after["dropped"] - before["dropped"]) / took, 3),
            "inspected": after["taken"] - before["taken"],
            "memory_mib": memory,
        }


def whole(work: Path, loop: Path, seconds: float) -> Cell:
    model = work / "model.onnx"
    if not model.is_file():
        data, fitted = work / "drawn" / "plate", work / "model.safetensors"
        common.flawscope("fit", "--data", data, "--size", "256", "--out", fitted, "--quiet")
        common.flawscope("export", fitted, "--out", model, "--quiet")
    with sent(loop) as url:
        return station(model, url, "frame", seconds)


def video(path: str) -> Cell:
    from flawscope.station.sources.frames import Frames
    from flawscope.station.sources.settings import CameraOf

    begun, spent = time.perf_counter(), time.process_time()
    frames = Frames(CameraOf(path), WIDTH * HEIGHT)
    count = sum(1 for _ in frames)
    took = time.perf_counter() - begun
    return {
        "frames": count,
        "frames_per_second": common.sig(count / took, 3),
        "cores": common.sig((time.process_time() - spent) / took, 3),
    }


def main() -> int:
    made = common.parser(__doc__, "cameras", data=False)
    made.add_argument("--seconds", type=float, default=150.0, help="of each stream (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=30, help="of each format (default: %(default)s)")
    made.add_argument("--frames", type=int, default=3000, help="of the file (default: %(default)s)")
    parts = ("encode", "camera", "station", "video")
    made.add_argument("--only", default=",".join(parts), help="default: %(default)s")
    args: Args = common.arguments(made, seconds=4.0, repeats=2, frames=60)
    record = Record(args, "a camera of 1920x1080 at 25 frames a second")
    with common.workspace(args.work) as work:
        loop = film(work, LOOP, "loop.mkv")
        only = args.only.split(",")
        if "encode" in only:
            given = {"path": loop, "repeats": args.repeats}
            print(record.cell("encode", lambda: common.task(encode, noise=0.0, **given).json))
            print(record.cell("encode, noise", lambda: common.task(encode, noise=3.0, **given).json))
        for every in ("frame", "1 s") if "camera" in only else ():

            def one(every: str = every) -> Cell:
                with sent(loop) as url:
                    return dict(common.task(camera, url=url, every=every, seconds=args.seconds).json)

            print(record.cell(f"camera, every {every}", one))
        if "station" in only:
            print(record.cell("station, every frame", lambda: whole(work, loop, args.seconds)))
        if "video" in only:
            long = film(work, args.frames, f"long-{args.frames}.mkv")
            print(record.cell("video", lambda: common.task(video, path=long).json))
    return 0


if __name__ == "__main__":
    raise SystemExit(common.start(main))
