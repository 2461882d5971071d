"""Runs the trained detector itself, in torch; and those of a joint model, the backbone once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact import joint_file, model_file
from flawscope.artefact.joint_file import JointArtefact, Recogniser, Recognition
from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.detector import Detector, resolve_device
from flawscope.methods.threads import set_thread_count, workers
from flawscope.runtime.session import LARGE_BATCH, SMALL_BATCH, Answers, JointAnswers, batch_size_for


class TorchSession:
    """Session: images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, numpy in and out."""

    runtime = "torch"
    suffix = ".safetensors"

    def __init__(self, model: Detector, device: str = "auto"):
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()
        self.size = model.size

    @classmethod
    def open(cls, artefact: Artefact, device: str = "auto", threads: int | None = None) -> TorchSession:
        """Opens a session of an artefact. `threads` holds for all that torch does in this process."""
        set_thread_count(threads)
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
        """Batch size that is fastest."""
        return batch_size_for(self.size, SMALL_BATCH if self.device.type == "cpu" else LARGE_BATCH)

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
                results = each(lambda i: self.model(batch[i : i + 1], _at(where, i)), range(len(batch)))
            scores, maps = (torch.cat(part) for part in zip(*results, strict=True))
        else:
            with torch.inference_mode():
                scores, maps = self.model(
                    batch.to(self.device), None if where is None else where.to(self.device)
                )
        return scores.float().cpu().numpy(), maps.float().cpu().numpy()

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        model_file.write(artefact, path)


def _at(positions: Tensor | None, i: int) -> Tensor | None:
    return None if positions is None else positions[i : i + 1]


class JointTorchSession:
    """Joint session of detectors that share one backbone and so embed pictures alike."""

    runtime = TorchSession.runtime

    def __init__(self, products: Mapping[str, TorchSession], recogniser: Recogniser):
        self.products, self.recogniser = dict(products), recogniser
        self.first = next(iter(self.products.values()))
        self.size = self.first.size

    @classmethod
    def open(
        cls, artefact: JointArtefact, device: str = "auto", threads: int | None = None
    ) -> JointTorchSession:
        """Opens a session of an artefact. `threads` holds for all that torch does in this process."""
        opened: dict[str, TorchSession] = {}
        for name, product in artefact.products.items():
            opened[name] = TorchSession.open(product, device, threads)
            if len(opened) > 1:  # the artefact has made sure that they are equal
                opened[name].model.backbone = next(iter(opened.values())).model.backbone
        return cls(opened, artefact.recogniser)

    @property
    def batch(self) -> int:
        return self.first.batch

    @property
    def lanes(self) -> int:
        return self.first.lanes

    def run_alone(self, images: NDArray[np.float32]) -> JointAnswers:
        with workers(self.first.device) as each:
            [answers] = each(self._answers, [torch.from_numpy(images)])
        return _to_numpy(*answers)

    def run(self, images: NDArray[np.float32]) -> JointAnswers:
        batch = torch.from_numpy(images)
        if self.first.device.type == "cpu" and len(batch) > 1:  # as `TorchSession` does it
            with workers(self.first.device) as each:
                found = each(self._answers, [batch[i : i + 1] for i in range(len(batch))])
            who = [one for each_of, _, _ in found for one in each_of]
            return _to_numpy(who, *(torch.cat(part) for part in list(zip(*found, strict=True))[1:]))
        with torch.inference_mode():
            return _to_numpy(*self._answers(batch.to(self.first.device)))

    def _answers(self, images: Tensor) -> tuple[list[Recognition], Tensor, Tensor]:
        model = self.first.model
        features, inside = model.embed(images), model.inside(images)
        found = self.recogniser.recognise(model.descriptor(features, inside).float().cpu().numpy())
        scores, maps = features.new_empty(len(images)), features.new_empty(len(images), *self.size)
        for name in {one.nearest for one in found}:
            rows = [k for k, one in enumerate(found) if one.nearest == name]
            own = None if inside is None else inside[rows]
            scores[rows], maps[rows] = self.products[name].model.score(features[rows], own)
        return found, scores, maps

    def save(self, artefact: JointArtefact, path: str | os.PathLike[str]) -> None:
        joint_file.write(artefact, path)


def _to_numpy(found: list[Recognition], scores: Tensor, maps: Tensor) -> JointAnswers:
    return found, scores.float().cpu().numpy(), maps.float().cpu().numpy()
