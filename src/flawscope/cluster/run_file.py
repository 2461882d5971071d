"""`run.json` in a folder of results: which call wrote there, so that the same one goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from flawscope.cluster import manifest as listing
from flawscope.cluster import shards as parts
from flawscope.cluster.manifest import Listing
from flawscope.cluster.store import Store
from flawscope.errors import InputError
from flawscope.results.run import FACTS

RUN = "run.json"
DEVICES = ("cpu", "cuda")


@dataclass
class RunFile:
    """call: by what a difference is called. size: pictures of a part; 0: not known yet. device: cpu or
    cuda."""

    store: Store
    call: dict[str, Any]
    listing: Listing = field(default_factory=Listing)
    size: int = 0
    device: str = ""

    @classmethod
    def begun(cls, store: Store, call: dict[str, Any]) -> RunFile:
        """The run that is there, or a new one. InputError where the folder holds another one."""
        if not store.exists(RUN):
            for name in (parts.FOLDER, listing.FOLDER, parts.OVERLAYS, FACTS):
                if store.exists(name):
                    raise InputError(
                        f"{store.url}/{name} is there already, and not of a run on a cluster: choose another "
                        "--out"
                    )
            return cls._new(store, call)
        run = cls._there(store)
        # before the first part nothing speaks against another call
        if not run.listing.inputs or (not run.size and run.call != call):
            return cls._new(store, call)
        run._require(call)
        return run

    @classmethod
    def _there(cls, store: Store) -> RunFile:
        try:
            document = json.loads(store.read(RUN))
            call, size, device = (document[name] for name in ("call", "size", "device"))
            return cls(store, dict(call), Listing(**document["listing"]), int(size), str(device))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{store.url}/{RUN} is not of a run on a cluster: choose another --out"
            ) from None

    def _require(self, call: dict[str, Any]) -> None:
        """InputError where it was made by another call."""
        for what, value in call.items():
            if self.call.get(what) != value:
                raise InputError(
                    f"--out {self.store.url} holds a run with another {what}: give the same call, which goes "
                    "on there, or choose another --out"
                )

    def _meanwhile(self) -> RunFile:
        """What is there now: the same call may have been given twice. InputError where another was."""
        run = self._there(self.store)
        run._require(self.call)
        return run

    @classmethod
    def _new(cls, store: Store, call: dict[str, Any]) -> RunFile:
        run = cls(store, call)
        run.write()
        return run

    def write(self) -> None:
        names = ("call", "size", "device")
        document = {name: getattr(self, name) for name in names} | {"listing": asdict(self.listing)}
        self.store.write(RUN, f"{json.dumps(document, indent=1)}\n".encode())

    def list(self, pictures: Sequence[str], stdin: IO[bytes] | None) -> None:
        """Make the listing, unless it is there."""
        if not self.listing.inputs:
            self.listing = listing.write(pictures, self.store, stdin)
            other = self._meanwhile()
            if other.listing.inputs and other.listing != self.listing:
                raise InputError(
                    f"--out {self.store.url}: another command began there in the same moment, with other "
                    "pictures: choose another --out"
                )
            self.size, self.device = other.size, other.device
            self.write()
        elif self.listing.digest and stdin and listing.digest(stdin) != self.listing.digest:
            raise InputError(
                f"--out {self.store.url} holds a run with other paths on stdin: give the same again, or "
                "choose another --out"
            )

    def fix(self, size: int, gpus: int) -> None:
        """Set the pictures of a part, and whether workers have GPUs, unless the same call has done so in
        another process."""
        if (other := self._meanwhile()).size:
            self.size, self.device = other.size, other.device
        else:
            self.size, self.device = size, DEVICES[gpus > 0]
            self.write()

    def check(self, gpus: int) -> None:
        """InputError where workers now have GPUs and had none, or the other way round: the last digits of
        scores would differ."""
        if self.device != (device := DEVICES[gpus > 0]):
            raise InputError(
                f"--out {self.store.url} holds a run that was begun on {self.device}, and this cluster's "
                f"workers have {device}: go on with workers as before, or choose another --out"
            )

    @property
    def parts(self) -> int:
        """How many; 0: not known yet."""
        return -(-self.listing.inputs // self.size) if self.size else 0
