"""Runs the trained detector itself, in torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact import model_file
from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError
from flawscope.machine import LARGE_BATCH, SMALL_BATCH, batch_size_for
from flawscope.methods import registry
from flawscope.methods.descriptors import DescriptorNetwork
from flawscope.methods.detector import Detector as Detector
from flawscope.methods.detector import resolve_device
from flawscope.methods.task import LeaveOut
from flawscope.methods.threads import set_thread_count, workers
from flawscope.pictures.table import learnt_units
from flawscope.runtime.session import Answers, Run


class TorchSession:
    """Session of a fitted model: images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`."""

    runtime = "torch"
    suffix = ".safetensors"

    def __init__(self, model: Detector, device: str = "auto"):
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()
        self.size = model.size
        self._leave_out: tuple[Artefact, LeaveOut] | None = None

    @classmethod
    def open(cls, artefact: Artefact, device: str = "auto", threads: int | None = None) -> TorchSession:
        """Open a session of an artefact.

        Args:
            artefact: The fitted model.
            device: auto, cpu, cuda or mps.
            threads: torch's number of threads, which is set for the whole process; None: it stays unchanged.

        Raises:
            InputError: The artefact's tensors do not fit its configuration.
        """
        set_thread_count(threads)
        tensors = _network_tensors(artefact)
        try:
            model = registry.method(artefact.manifest.method).rebuild(artefact.manifest.config, tensors)
        except (KeyError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the model's tensors do not fit its configuration ({reason}): fit anew"
            ) from None
        return cls(model, device)

    @property
    def batch(self) -> int:
        """Batch size that is fastest."""
        return batch_size_for(self.size, SMALL_BATCH if self.device.type == "cpu" else LARGE_BATCH)

    @property
    def lanes(self) -> int:
        """Number of torch's threads on a CPU; else 1."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def run_alone(self, images: NDArray[np.float32]) -> Answers:
        """Return scores `[B]` and maps `[B, H, W]` of images `[B, 3, H, W]`; on a CPU, by one thread."""
        if self.device.type != "cpu":
            return self.run(images)
        with workers(self.device) as map_in_threads:
            [(scores, maps)] = map_in_threads(self.model, [torch.from_numpy(images)])
        return scores.float().numpy(), maps.float().numpy()

    def run(self, images: NDArray[np.float32]) -> Answers:
        """Return scores `[B]` and maps `[B, H, W]`, float32, of images `[B, 3, H, W]`."""
        batch = torch.from_numpy(images)
        if self.device.type == "cpu" and len(batch) > 1:
            # One picture per thread: no thread waits for another, which would cost most on a busy machine
            with workers(self.device) as map_in_threads:
                results = map_in_threads(self.model, batch.split(1))
            scores, maps = (torch.cat(parts) for parts in zip(*results, strict=True))
        else:
            with torch.inference_mode():
                scores, maps = self.model(batch.to(self.device))
        return scores.float().cpu().numpy(), maps.float().cpu().numpy()

    def residuals(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the differences `[B, C, h, w]` float32 between images `[B, 3, H, W]` and good images."""
        with workers(self.device) as map_in_threads:  # on a CPU, this takes one thread
            [differences] = map_in_threads(self.model.residuals, [torch.from_numpy(images).to(self.device)])
        return np.asarray(differences.float().cpu().numpy())

    def run_without(self, artefact: Artefact, unit: int) -> Run:
        """Return a `run` of the model as it would be without the training pictures of a unit."""
        # a `LeaveOut` is made for each artefact, and kept until another artefact comes
        if self._leave_out is None or self._leave_out[0] is not artefact:
            learnt = learnt_units(artefact.manifest.pictures).values()
            self._leave_out = artefact, LeaveOut(self.model, learnt, _network_tensors(artefact))
        _, leave_out = self._leave_out
        return leave_out.run(unit)

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        """Write the artefact as a .safetensors file, atomically."""
        model_file.write(artefact, path)


def _network_tensors(artefact: Artefact) -> dict[str, Tensor]:
    """Return the artefact's tensors in torch, without the sample pictures."""
    return {
        name: torch.from_numpy(np.asarray(array))
        for name, array in artefact.tensors.items()
        if name != "samples"
    }


def share_weights(sessions: Sequence[TorchSession], artefacts: Sequence[Artefact]) -> None:
    """Let sessions share the memory of parameters that come from the same array in their artefacts."""
    # `id` of an array, and type of the parameter -> the first parameter that comes from the array
    first_parameters: dict[tuple[int, torch.dtype], Tensor] = {}
    for session, artefact in zip(sessions, artefacts, strict=True):
        for name, parameter in session.model.state_dict(keep_vars=True).items():
            source = artefact.tensors.get(name)
            if source is None:
                continue
            first = first_parameters.setdefault((id(source), parameter.dtype), parameter)
            if first.shape == parameter.shape:
                parameter.data = first.data


class Describing:
    """Function from images to descriptors, which several threads may call at once."""

    def __init__(self, network: DescriptorNetwork):
        self._network = network

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors `[B, D]` of images `[B, 3, H, W]`, both float32."""
        device = self._network.roi.device
        batch = torch.from_numpy(images)
        # If torch has a single thread, the caller's thread computes: other threads run other pictures
        if device.type == "cpu" and torch.get_num_threads() > 1:
            with workers(device) as map_in_threads:
                [descriptors] = map_in_threads(self._network, [batch])
        else:
            with torch.inference_mode():
                descriptors = self._network(batch.to(device))
        return np.asarray(descriptors.float().cpu().numpy())
