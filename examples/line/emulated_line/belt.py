"""A camera above a belt, which sends MJPEG over HTTP: parts lie under it one after another.

    python -m emulated_line.belt 8090 FOLDER

`GET /` is the stream. `POST /5` moves the picture number 5 of the folder under the camera, which takes a
moment; after the last picture comes the first one again.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

MOVE = 0.2  # seconds until a part lies under the camera
RATE = 25  # frames a second
PATTERNS = ("*.png", "*.jpg")


class Belt:
    """Pictures that pass by, all of one size."""

    def __init__(self, paths: list[Path]):
        self._parts = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        self._before = self._now = np.full_like(self._parts[0], 60)
        self._moved = -MOVE
        self._rng = np.random.default_rng(0)

    def place(self, number: int) -> None:
        """Begin to move a part under the camera."""
        self._before, self._now = self._now, self._parts[number % len(self._parts)]
        self._moved = time.monotonic()

    def frame(self) -> bytes:
        """What the camera sees now, as JPEG."""
        share = min(1.0, (time.monotonic() - self._moved) / MOVE)
        start = round(share * self._now.shape[1])
        seen = np.concatenate([self._before, self._now], 1)[:, start : start + self._now.shape[1]]
        # no two exposures of a sensor are the same: a station takes a frame that is repeated for a fault
        noisy = seen + self._rng.integers(-2, 3, seen.shape)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
        return file.getvalue()


def server(port: int, belt: Belt) -> ThreadingHTTPServer:
    """The camera, at a port of this machine; `serve_forever` runs it."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            while True:
                data = belt.frame()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:  # who looked is gone
                    return
                time.sleep(1 / RATE)

        def do_POST(self) -> None:
            belt.place(int(self.path[1:]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", port), Camera)
    made.daemon_threads = True
    return made


def pictures(folder: Path) -> list[Path]:
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))


def start(port: int, folder: Path) -> ThreadingHTTPServer:
    """Runs a camera in a thread of this process."""
    made = server(port, Belt(pictures(folder)))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made


if __name__ == "__main__":
    server(int(sys.argv[1]), Belt(pictures(Path(sys.argv[2])))).serve_forever()
