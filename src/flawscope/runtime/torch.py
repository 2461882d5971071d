"""Runs the trained detector itself, in torch."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact import model_file
from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.detector import Detector, device_for
from flawscope.methods.threads import use_threads, workers
from flawscope.runtime.session import FEW, MANY, Answers, together


class TorchSession:
    """Session: images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, numpy in and out."""

    runtime = "torch"
    suffix = ".safetensors"

    def __init__(self, model: Detector, device: str = "auto"):
        self.device = device_for(device)
        self.model = model.to(self.device).eval()
        self.size = model.size

    @classmethod
    def open(cls, artefact: Artefact, device: str = "auto", threads: int | None = None) -> TorchSession:
        """Opens a session of an artefact. `threads` holds for all that torch does in this process."""
        use_threads(threads)
        tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in artefact.tensors.items() if k != "samples"}
        try:
            model = registry.method(artefact.manifest.method).rebuild(artefact.manifest.config, tensors)
            places = artefact.manifest.preprocess.positions
            if model.positions != (None if places is None else 1 + math.prod(places)):
                raise InputError("the model's memory banks do not fit its tiles: fit anew")
        except (KeyError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the model's tensors do not fit its configuration ({reason}): fit anew"
            ) from None
        return cls(model, device)

    @property
    def batch(self) -> int:
        """Number of pictures that are fastest together here."""
        return together(self.size, FEW if self.device.type == "cpu" else MANY)

    @property
    def lanes(self) -> int:
        """Number of torch's threads on a CPU; else 1."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def run_alone(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        if self.device.type != "cpu":
            return self.run(images, positions)
        given = torch.from_numpy(images), None if positions is None else torch.from_numpy(positions)
        with workers(self.device) as each:
            [(scores, maps)] = each(lambda pair: self.model(*pair), [given])
        return scores.float().numpy(), maps.float().numpy()

    def run(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        batch = torch.from_numpy(images)
        where = None if positions is None else torch.from_numpy(positions)
        if self.device.type == "cpu" and len(batch) > 1:
            # One picture a thread: no thread waits for another, which matters most on a busy machine
            with workers(self.device) as each:
                results = each(lambda i: self.model(batch[i : i + 1], _one(where, i)), range(len(batch)))
            scores, maps = (torch.cat(part) for part in zip(*results, strict=True))
        else:
            with torch.inference_mode():
                scores, maps = self.model(
                    batch.to(self.device), None if where is None else where.to(self.device)
                )
        return scores.float().cpu().numpy(), maps.float().cpu().numpy()

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        model_file.write(artefact, path)


def _one(positions: Tensor | None, i: int) -> Tensor | None:
    return None if positions is None else positions[i : i + 1]
