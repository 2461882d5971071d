"""Cameras: real streams, and what happens when they are cut."""

import errno
import io
import os
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from camera_helpers import rtsp_fixture as rtsp_fixture
from camera_helpers import source_context, sources, with_sources, write_video
from flawscope.errors import InputError
from flawscope_station.client import Client
from flawscope_station.inspecting.picture import TooLargeError
from flawscope_station.settings.sources import (
    ALLOWED_PROTOCOLS,
    CameraSourceSettings,
    FolderSourceSettings,
    ffmpeg_input,
    redact_camera_address,
)
from flawscope_station.settings.station import read_settings
from flawscope_station.sources import camera as camera_module
from flawscope_station.sources.camera import MAX_IN_FLIGHT, FfmpegCamera, LiveCamera, Shot
from flawscope_station.sources.frames import CameraLostError, FrameReader, encode_png
from flawscope_station.sources.source import ApartError, AwayError
from flawscope_station.sources.trigger import MOST_APART, check_together
from station_helpers import everything, failing, until

MANY = 10**7  # pixels
DRAWN = "lavfi:testsrc2=size=96x64:rate=25,realtime"  # an input device as a local camera is one
TRIGGERED = CameraSourceSettings(DRAWN, "trigger", latency="1 ms")


@pytest.fixture
def stream_of_file(monkeypatch):
    """FFmpeg opens a file in the place of a camera, which sends what no camera here would."""
    monkeypatch.setattr(
        "flawscope_station.sources.frames.ffmpeg_input",
        lambda address, timeout: (f"file:{address}", None, {}),
    )


def pictures_of(path: Path | str) -> list[Image.Image]:
    frames = FrameReader(CameraSourceSettings(str(path)), MANY)
    try:
        return [Image.open(io.BytesIO(encode_png(frame, MANY))) for frame in frames if frame is not None]
    finally:
        frames.close()


def names(url: str) -> list[str]:
    """In their order. Frames that wait at the same moment may be judged in another one."""
    return sorted(one["name"] for one in everything(url))


def test_sources_of_a_file_of_settings(tmp_path, model_file):
    (tmp_path / "station.yaml").write_text(
        f"""
products:
  plate:
    model: {model_file}
    folder: first
    sources:
      - folder: second
        then: ./done
      - camera: rtsp://anna@192.0.2.20/stream
        password_file: secret
        every: 1 s
      - camera: /dev/video0
        every: trigger
        latency: 200 ms
        lost_after: 500 ms
        view: top
        options: {{video_size: 1920x1080, framerate: 30}}
"""
    )
    product = read_settings(tmp_path / "station.yaml").products["plate"]
    assert product.all_sources == (
        FolderSourceSettings(str(tmp_path / "first")),
        FolderSourceSettings(str(tmp_path / "second"), str(tmp_path / "done")),
        CameraSourceSettings("rtsp://anna@192.0.2.20/stream", "1 s", str(tmp_path / "secret")),
        CameraSourceSettings(
            "/dev/video0",
            "trigger",
            None,
            0.5,
            (("framerate", "30"), ("video_size", "1920x1080")),
            view="top",
            latency=0.2,
        ),
    )
    assert (product.all_sources[3].frame_timeout, product.all_sources[3].latency) == (0.5, 0.2)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://anna:secret@192.0.2.20:554/stream", "rtsp://192.0.2.20:554/…"),
        ("rtsp://anna:sec/ret@h/stream", "rtsp://…"),
        ("rtsp://anna:s@cret@h/stream", "rtsp://h/…"),
        ("rtsp://[fd00::7]", "rtsp://[fd00::7]"),
        ("http://h?password=secret", "http://h/…"),
        ("anna:secret@h/stream", "…"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_no_address_shows_a_password(address, shown):
    assert redact_camera_address(address) == shown
    assert "secret" not in repr(CameraSourceSettings(address))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EBUSY, "another program uses it, end that one"),  # one that crashed may hold it still
        (errno.EACCES, "add it to the group video"),
        (errno.ENOENT, "there is no such device"),
        (errno.ENODEV, "No such device$"),
    ],
)
def test_a_camera_of_this_machine_that_cannot_be_opened_says_what_to_do(number, remedy, monkeypatch):
    monkeypatch.setattr(av, "open", failing(OSError(number, os.strerror(number))))
    with pytest.raises(CameraLostError, match=remedy):
        FrameReader(CameraSourceSettings("/dev/video0"), MANY)


def test_what_ffmpeg_may_open():
    """Each address only with the protocols that it needs, and a local camera by its system's name."""
    assert ffmpeg_input("/dev/video0", 5) == ("/dev/video0", "v4l2", {})
    assert ffmpeg_input("v4l2:/dev/v4l/by-id/usb-1", 5)[:2] == ("/dev/v4l/by-id/usb-1", "v4l2")
    assert ffmpeg_input("avfoundation:0", 5)[:2] == ("0", "avfoundation")
    assert ffmpeg_input("dshow:video=HD Camera", 5)[:2] == ("video=HD Camera", "dshow")
    _, _, options = ffmpeg_input("rtsp://h/s", 2)
    assert (options["rtsp_transport"], options["timeout"]) == ("tcp", "2000000")
    for scheme, allowed in ALLOWED_PROTOCOLS.items():
        options = ffmpeg_input(f"{scheme}://h/s", 2)[2]
        assert options["protocol_whitelist"] == allowed
        assert "file" not in allowed


@pytest.mark.usefixtures("stream_of_file")
def test_a_frame_is_kept_without_loss(tmp_path):
    path = write_video(tmp_path / "a.mkv", 5)
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found = pictures_of(path)
    assert len(found) == len(expected) == 5
    assert {image.format for image in found} == {"PNG"}
    for image, array in zip(found, expected, strict=True):
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        *((one, "RGB") for one in ("yuv420p", "yuv444p10le", "yuvj422p", "rgb48le", "bgra", "pal8")),
        *((one, "RGB") for one in ("bayer_rggb8", "uyvy422", "nv12")),
        *(("gray", "L"), ("monob", "L"), ("gray16le", "I;16"), ("gray10le", "I;16")),
    ],
)
def test_pixels_of_every_kind(pixels, mode):
    """A light corner is light, whatever the camera calls it, and grey of more than 8 bits stays so."""
    from flawscope.pictures.decoding import decode

    array = np.full((34, 50, 3), 90, np.uint8)
    array[:10, :16] = 200
    drawn = av.VideoFrame.from_ndarray(array, format="rgb24")
    if pixels == "pal8":
        palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
        frame = av.VideoFrame.from_ndarray((array[..., 0].copy(), palette), format="pal8")
    elif pixels == "bayer_rggb8":  # FFmpeg makes none: as a camera would
        frame, grey = av.VideoFrame(50, 34, pixels), drawn.reformat(format="gray")
        frame.planes[0].update(bytes(grey.planes[0])[: frame.planes[0].buffer_size])
    else:
        frame = drawn.reformat(format=pixels)
    data = encode_png(frame, MANY)
    image = Image.open(io.BytesIO(data))
    assert (image.size, image.mode) == ((50, 34), mode)
    decoded = decode(data, name="frame").astype(float)
    assert decoded[2:8, 2:12].mean() > 1.5 * decoded[20:, 24:].mean()


@pytest.mark.usefixtures("stream_of_file")
@pytest.mark.parametrize(
    ("turned", "size", "corner"),
    [*((0, (96, 64), (0, 0)), (90, (64, 96), (0, 1))), *((180, (96, 64), (1, 1)), (270, (64, 96), (1, 0)))],
)
def test_turned_frames_are_upright(turned, size, corner, tmp_path):
    """As players show it, turned clockwise. corner: where the red one is, down and right."""
    path, marked = write_video(tmp_path / "a.mp4", 2), tmp_path / "b.mp4"
    across, down = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turned]
    matrix = [across << 16, down << 16, 0, -down << 16, across << 16, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2: the matrix of a track's header, version 0
    data[place : place + 36] = struct.pack(">9i", *matrix)
    marked.write_bytes(data)
    image = np.asarray(pictures_of(marked)[0]).astype(int)
    assert image.shape[1::-1] == size
    y, x = (-3 if far else 2 for far in corner)
    assert image[y, x, 0] > 200 > 100 > image[y, x, 1]


@pytest.mark.usefixtures("stream_of_file")
def test_an_interlaced_frame_has_no_comb(tmp_path):
    """A bar that has moved between the two halves of a frame."""
    array = np.zeros((64, 96, 3), np.uint8)
    array[0::2, 20:40] = 255
    array[1::2, 50:70] = 255
    frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuv420p")
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1:qp=0"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    image = np.asarray(pictures_of(path)[0]).astype(int)[8:-8, :, 1]
    assert image.shape[1] == 96
    assert np.abs(np.diff(image, axis=0)).max() < 30
    assert image[:, 30].min() > 200
    assert image[:, 60].max() < 50


@pytest.mark.usefixtures("stream_of_file")
def test_a_stream_that_changes_its_size(tmp_path):
    """As when somebody sets a camera anew: frames of both sizes."""
    first = write_video(tmp_path / "a.h264", 5)
    second = write_video(tmp_path / "b.h264", 5, size=(64, 48))
    joined = tmp_path / "c.h264"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert [image.size for image in pictures_of(joined)] == 5 * [(96, 64)] + 5 * [(64, 48)]


@pytest.mark.usefixtures("stream_of_file")
@pytest.mark.parametrize("ending", [".ts", ".mkv", ".avi"])
def test_damaged_packets_harm_their_frames_and_a_cut_file_gives_its_rest(ending, tmp_path):
    path = write_video(tmp_path / f"a{ending}", 100, g="10")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    data = bytearray(whole)
    for place in rng.integers(len(data) // 3, 2 * len(data) // 3, 40):
        data[place] ^= 0xFF
    for few, spoilt in ((20, bytes(data)), (10, whole[: 2 * len(whole) // 3])):
        path.write_bytes(spoilt)
        found = pictures_of(path)
        assert few < len(found) <= 100
        assert all(image.size == (96, 64) for image in found)


@pytest.mark.usefixtures("stream_of_file")
def test_frames_have_at_most_so_many_pixels(tmp_path):
    path = write_video(tmp_path / "a.mp4", 2)
    with pytest.raises(TooLargeError, match="raise `limits: pixels`"):
        FrameReader(CameraSourceSettings(str(path)), 1000)
    with pytest.raises(TooLargeError, match="megapixels"):
        encode_png(av.VideoFrame(96, 64, "rgb24"), 1000)


def test_a_trigger_takes_the_first_frame_after_it(open_station, settings):
    """Once under one key, whatever is lost; and no frame without a trigger."""
    running = open_station(products=with_sources(settings, TRIGGERED))
    until(lambda: sources(running.url)[0]["state"] == "running")
    there = f"{running.url}/api/v1/products/plate/trigger"
    with Client(running.url) as client:
        (camera,) = running.station.sources["plate"]
        before = time.time()
        first = client.trigger(key="part-1")
        at = client.search().__next__().name.removeprefix("camera1-").removesuffix("Z.png")
        day, _, clock = at.partition("T")
        moment = np.datetime64(f"{day}T{clock.replace('-', ':')}").astype("datetime64[ms]").astype(int) / 1e3
        assert before - 0.002 <= moment <= time.time()
        assert client.trigger(key="part-1") == first
        again = httpx.post(there, headers={"Idempotency-Key": "part-1"})
        assert (again.status_code, again.json()["id"]) == (200, first.id)
        second = client.trigger("plate", camera=1, seconds=2)
        assert (second.id, second.source) == (first.id + 1, "camera")
        assert camera.state.taken == 0
    assert len(names(running.url)) == 2
    for query, status in (({"camera": 2}, 404), ({"seconds": 0}, 422), ({"seconds": 1e9}, 422)):
        assert httpx.post(there, params=query).status_code == status
    assert httpx.post(there.replace("plate", "plat")).status_code == 404
    assert httpx.post(there, headers={"Idempotency-Key": "x" * 500}).status_code == 422


def test_triggers_of_no_camera_or_several(open_station, settings, tmp_path):
    running = open_station()
    with Client(running.url) as client, pytest.raises(InputError, match="plate has no camera"):
        client.trigger()
    running.close()
    running = open_station(products=with_sources(settings, TRIGGERED, TRIGGERED))
    until(lambda: all(one["state"] == "running" for one in sources(running.url)))
    with Client(running.url) as client:
        with pytest.raises(InputError, match="several cameras: name one of 1, 2"):
            client.trigger()
        assert client.trigger(camera=2).name.startswith("camera2-")
    running.close()


class FakeCamera(LiveCamera):
    """Camera that sends a frame every few milliseconds."""

    def _run_session(self, backoff: Any) -> str:
        while not self._ended.wait(0.005):
            self._handle_frame(SimpleNamespace(width=8, height=8), {})
        return "the stream ended"


class StuckCamera(LiveCamera):
    """Camera whose driver does not return from opening until it is let go; then it sends frames."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.going = threading.Event()

    def _run_session(self, backoff: Any) -> str:
        assert self.going.wait(60)
        while not self._ended.wait(0.005):
            self._handle_frame(SimpleNamespace(width=8, height=8), {})
        return "the stream ended"


def test_a_driver_that_hangs_is_told_and_goes_on_when_it_returns(monkeypatch):
    """No frame ever came, so that nobody misses one: the watch over its thread alone sees it."""
    monkeypatch.setattr(camera_module, "DRIVER_SECONDS", 0.0)
    monkeypatch.setattr(camera_module, "encode_png", lambda frame, pixels: b"")
    told, settings = dict[str, str | None](), CameraSourceSettings("rtsp://192.0.2.20/stream", lost_after=0.5)
    line = replace(source_context(), report=lambda code, why, **_: told.update({code: why}))
    camera = StuckCamera(line, settings, 1)
    camera.start()
    try:
        waiting = camera.next_shot()
        until(lambda: told.get("camera_away_1_1"), "people are told")
        assert "its driver does not return" in str(told["camera_away_1_1"])
        assert camera.state.is_lost
        assert isinstance(waiting.exception(60), AwayError), "who waits for a frame is answered"
        assert not camera.threads[0].stops_all, "other cameras go on"
        camera.going.set()
        until(lambda: camera.state.taken, "its frames are inspected")
        assert told["camera_away_1_1"] is None
        assert not camera.threads[0].is_stuck
    finally:
        camera.going.set()
        camera.stop(10)


@pytest.mark.parametrize("step", ["_check_silence", "picture"])
def test_a_thread_that_ends_often_takes_no_place_for_ever(step, monkeypatch):
    monkeypatch.setattr("flawscope_station.monitoring.background.MAX_RESTART_DELAY", 0.05)
    camera = FakeCamera(line := source_context(), CameraSourceSettings("rtsp://192.0.2.20/stream"), 1)
    monkeypatch.setattr(camera_module, "encode_png", lambda frame, pixels: b"")
    camera.start()
    try:
        until(lambda: camera.state.taken > 1)
        ended = list[float]()

        def end(*given: Any) -> Any:
            ended.append(time.monotonic())
            raise SystemExit(3)

        with monkeypatch.context() as patch:
            patch.setattr(camera, step, end)
            until(lambda: len(ended) > 2 * MAX_IN_FLIGHT)
        count = camera.state.taken
        until(lambda: camera.state.taken > count + MAX_IN_FLIGHT)
    finally:
        camera.stop(5)
    assert camera._in_flight == line.share._count == 0


def test_views_that_were_exposed_apart_are_not_one_part():
    """On a belt the second camera shows the next part; a product may allow less than a second."""
    shots = [Shot(object(), 1, exposed_at=seconds) for seconds in (100.0, 100.4)]
    check_together(shots, MOST_APART)
    check_together(shots[:1], 0.0)
    check_together([], 0.0)
    with pytest.raises(ApartError, match=r"exposed 0\.4 s apart, 0\.2 s are allowed"):
        check_together(shots, 0.2)


def test_a_frame_that_comes_by_itself_is_no_part_of_views():
    """Told with the remedy, before it is encoded."""
    camera = FfmpegCamera(source_context(), CameraSourceSettings("rtsp://h/s", "frame"), 1)
    camera.line = replace(camera.line, parts=SimpleNamespace(views=lambda product: ["left", "top"]))
    with pytest.raises(
        InputError, match="in the views left, top, and a frame that comes by itself shows one"
    ):
        camera._check_single()
    camera.line = replace(camera.line, parts=SimpleNamespace(views=lambda product: []))
    camera._check_single()


def test_a_frame_that_several_triggers_share_is_encoded_once_and_by_one_thread_at_a_time(monkeypatch):
    """FFmpeg's frames are for one thread: two at once end the process."""
    asked, begun = [], threading.Barrier(8)

    def encode(frame: object, pixels: int) -> bytes:
        asked.append(threading.get_ident())
        time.sleep(0.01)  # others come meanwhile
        return b"png"

    def picture(shot: Shot) -> bytes:
        begun.wait()
        return shot.encode(100)

    monkeypatch.setattr(camera_module, "encode_png", encode)
    for _ in range(3):
        shot = Shot(object(), 1)
        with ThreadPoolExecutor(8) as threads:
            assert [*threads.map(picture, [shot] * 8)] == [b"png"] * 8
    assert len(asked) == 3
