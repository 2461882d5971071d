"""A camera that speaks RTSP, in a process of its own: GStreamer's server, which draws its pictures itself.

Run by the system's Python, which has its bindings: `python3 rtsp_server.py PORT PATTERN [USER PASSWORD]`.
Prints a line when it listens. Knows nothing of flawscope.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SIZE = "width=160,height=120,framerate=25/1"
LAUNCH = (
    f"( videotestsrc is-live=true pattern=PATTERN ! video/x-raw,{SIZE} ! videoconvert ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )"
)


def main() -> None:
    port, pattern, *login = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(LAUNCH.replace("PATTERN", pattern))
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
