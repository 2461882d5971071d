"""Settings of a handshake with a PLC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from flawscope.errors import InputError
from flawscope_station.plugins import time_of

MAX_REGISTER = 65535  # number of Modbus's last register
MAX_RECIPE = 65535  # largest number of 16 bits


@dataclass(frozen=True)
class PlcSettings:
    """Settings of a handshake, the same for every protocol.

    Attributes:
        recipes: Products by the numbers that the PLC uses for them, from 1.
        camera: Product whose camera is triggered for all products, or `PRODUCT/2` for its second camera;
            None: each product's own camera.
        watchdog: Time after which it is an error if the PLC's heartbeat stands still; None: the heartbeat
            is not watched.
        deadline: Time from trigger to answer for products without a `deadline` of their own.
    """

    recipes: Mapping[int, str]
    camera: str | None = None
    watchdog: str | None = "2 s"
    deadline: str = "5 s"

    def __post_init__(self) -> None:
        if not self.recipes or not all(1 <= number <= MAX_RECIPE for number in self.recipes):
            raise InputError(f"recipes: write `NUMBER: PRODUCT` below it, from 1 to {MAX_RECIPE}")
        # they raise InputError for a bad setting
        _ = self.watchdog_seconds, self.deadline_seconds, self.camera_number

    @property
    def watchdog_seconds(self) -> float:
        """Time `watchdog` in seconds; 0: the heartbeat is not watched.

        Raises:
            InputError: The setting is not a time.
        """
        return 0.0 if self.watchdog is None else time_of(self.watchdog, "watchdog", "a time such as 2 s")

    @property
    def deadline_seconds(self) -> float:
        """Time `deadline` in seconds.

        Raises:
            InputError: The setting is not a time.
        """
        return time_of(self.deadline, "deadline", "a time such as 800 ms")

    @property
    def camera_number(self) -> int | None:
        """Number of the camera among the product's; None: `camera` has no number.

        Raises:
            InputError: `camera` has another text in place of the number.
        """
        _, separator, number = (self.camera or "").partition("/")
        if separator and not number.isdigit():
            raise InputError(f"camera: {self.camera!r:.60} is not a product, or PRODUCT/2")
        return int(number) if separator else None

    def camera_product(self, product: str) -> str:
        """Return the product whose camera takes the pictures of a product."""
        return product if self.camera is None else self.camera.partition("/")[0]


@dataclass(frozen=True)
class ModbusSettings(PlcSettings):
    """Settings of Modbus TCP.

    Attributes:
        listen: `HOST:PORT` of the station's server, which the PLC reads and writes; None: `connect` is set.
        connect: `HOST:PORT` of a PLC whose registers the station reads and writes; None: `listen` is set.
        unit: Modbus unit of the PLC.
        every: Time between two reads of the PLC.
        inputs: First holding register of the PLC's signals.
        outputs: First holding register of the station's signals.
    """

    listen: str | None = None
    connect: str | None = None
    unit: int = 1
    every: str = "10 ms"
    inputs: int = 0
    outputs: int = 100

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.listen is None) == (self.connect is None):
            raise InputError("write either `listen: HOST:PORT` or `connect: HOST:PORT`")
        from flawscope_line.plc.signals import TO_PLC, TO_STATION, register_count

        inputs_end = self.inputs + register_count(TO_STATION)
        outputs_end = self.outputs + register_count(TO_PLC)
        if min(self.inputs, self.outputs) < 0 or max(inputs_end, outputs_end) > MAX_REGISTER + 1:
            raise InputError(f"inputs and outputs must lie in registers 0 to {MAX_REGISTER}")
        if self.inputs < outputs_end and self.outputs < inputs_end:
            raise InputError("inputs and outputs overlap: leave at least 28 registers between them")
        _ = self.address, self.poll_interval  # they raise InputError for a bad setting

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen` or `connect`.

        Raises:
            InputError: The setting is not HOST:PORT.
        """
        if self.listen:
            return parse_host_port(self.listen, "listen")
        return parse_host_port(self.connect or "", "connect")

    @property
    def poll_interval(self) -> float:
        """Time `every` in seconds.

        Raises:
            InputError: The setting is not a time.
        """
        return time_of(self.every, "every", "a time such as 10 ms")


@dataclass(frozen=True)
class OpcUaSettings(PlcSettings):
    """Settings of OPC UA.

    Attributes:
        listen: `HOST:PORT` of the station's server.
        certificate_file: Certificate of the server, which then accepts only encrypted channels.
        key_file: Key of the certificate.
        user: Name with which the PLC signs in; None: the PLC need not sign in.
        password_file: File with the user's password.
    """

    listen: str = "127.0.0.1:4840"
    certificate_file: str | None = None
    key_file: str | None = None
    user: str | None = None
    password_file: str | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.address  # it raises InputError for a bad setting
        if (self.certificate_file is None) != (self.key_file is None):
            raise InputError("certificate_file and key_file belong together: write both, or none")
        if (self.user is None) != (self.password_file is None):
            raise InputError("user and password_file belong together: write both, or none")
        if self.user is not None and self.certificate_file is None:
            raise InputError("user: its password could be read on the wire: write certificate_file, too")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`.

        Raises:
            InputError: The setting is not HOST:PORT.
        """
        return parse_host_port(self.listen, "listen")


def parse_host_port(text: str, name: str) -> tuple[str, int]:
    """Return the host and port of a text.

    Args:
        text: Text to parse.
        name: Name of the setting, for the error.

    Raises:
        InputError: The text is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{name}: {text!r:.60} is not HOST:PORT, such as 127.0.0.1:502")
    return host.strip("[]"), int(port)
