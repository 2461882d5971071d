"""Runs a flawscope station as a service of Windows; install.ps1 installs it.

The station is a process of its own, which Ctrl-Break ends as SIGTERM does elsewhere: it answers what it has
taken, and ends. A station that ends by itself ends the service, which Windows starts again.
"""

import signal
import subprocess
import sys
from pathlib import Path

import servicemanager
import win32event
import win32service
import win32serviceutil

SETTINGS = Path(r"C:\flawscope\station.yaml")
PATIENCE = 90  # seconds


class Station(win32serviceutil.ServiceFramework):
    """The service `flawscope`."""

    _svc_name_ = "flawscope"
    _svc_display_name_ = "flawscope station"
    _svc_description_ = "Inspects pictures and remembers what was found"

    def __init__(self, args: list[str]):
        super().__init__(args)
        self.stopping = win32event.CreateEvent(None, 0, 0, None)

    def SvcStop(self) -> None:
        self.ReportServiceStatus(win32service.SERVICE_STOP_PENDING, waitHint=1000 * PATIENCE)
        win32event.SetEvent(self.stopping)

    def SvcDoRun(self) -> None:
        command = [Path(sys.prefix) / "Scripts" / "flawscope.exe", "serve", SETTINGS]
        with open(SETTINGS.with_name("station.log"), "ab") as log:
            station = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=SETTINGS.parent,
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
            )
            waited = win32event.WaitForMultipleObjects(
                [self.stopping, int(station._handle)], False, win32event.INFINITE
            )
            if waited == win32event.WAIT_OBJECT_0:
                station.send_signal(signal.CTRL_BREAK_EVENT)
                try:
                    station.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    station.kill()
                return
        servicemanager.LogErrorMsg(f"the station ended with {station.returncode}: see station.log")
        sys.exit(1)


if __name__ == "__main__":
    win32serviceutil.HandleCommandLine(Station)
