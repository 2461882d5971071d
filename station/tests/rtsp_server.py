"""A camera that speaks RTSP, in a process of its own: GStreamer's server, which draws its pictures itself.

Run by the system's Python, which has its bindings: `python3 rtsp_server.py PORT PATTERN [USER PASSWORD]`.
Prints a line when it listens. Knows nothing of flawscope.

The pattern `clock` shows when each frame was exposed, in squares, as `DelayedCamera` of camera_helpers
does. It reads words: `freeze`, `silent`, `go`; and prints when it begins to send a frame again.
"""

import sys
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SIZE = "width=160,height=120,framerate=25/1"
LAUNCH = (
    f"( videotestsrc is-live=true pattern=PATTERN ! video/x-raw,{SIZE} ! videoconvert ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )"
)
CELL, BITS = 16, 32  # pixels of a square, and squares
CLOCK = (
    "( appsrc name=clock is-live=true do-timestamp=true format=time caps=video/x-raw,format=GRAY8,"
    f"width={CELL * BITS},height={2 * CELL},framerate=25/1 ! videoconvert ! x264enc tune=zerolatency "
    "speed-preset=ultrafast key-int-max=1 pass=quant quantizer=15 ! rtph264pay name=pay0 pt=96 )"
)


class Clock:
    """Frames that show their time. The same frame is encoded alike: each stands for itself."""

    def __init__(self) -> None:
        self.word, self.last, self.was_repeat = "go", b"", False

    def read(self, stream: Any, _: Any) -> bool:
        self.word = stream.readline().strip() or self.word
        return True

    def configure(self, _: Any, media: Any) -> None:
        source = media.get_element().get_by_name("clock")
        GLib.timeout_add(40, self.push, source)

    def push(self, source: Any) -> bool:
        if self.word == "silent":
            return True
        is_repeat = self.word == "freeze" and bool(self.last)
        if is_repeat and not self.was_repeat:
            print(time.monotonic(), flush=True)
        self.was_repeat = is_repeat
        if not is_repeat:
            number = int(time.monotonic() * 1e4) % 2**BITS
            row = b"".join(bytes([255 * (number >> bit & 1)]) * CELL for bit in range(BITS))
            self.last = row * CELL + bytes(len(row) * CELL)
        return source.emit("push-buffer", Gst.Buffer.new_wrapped(self.last)) == Gst.FlowReturn.OK


def main() -> None:
    port, pattern, *login = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(CLOCK if pattern == "clock" else LAUNCH.replace("PATTERN", pattern))
    if pattern == "clock":
        clock = Clock()
        factory.connect("media-configure", clock.configure)
        GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, clock.read)
    factory.set_shared(True)
    if login:
        user, password = login
        made = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        made.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(made)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/stream", factory)
    if not server.attach(None):
        sys.exit(f"port {port} cannot be used")
    print("it listens", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
