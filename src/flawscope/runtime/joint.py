"""Sessions of exported joint models, the same in all engines: one network for what products share, and one
for each product."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import joint_file
from flawscope.artefact.joint_file import EMBED, SCORE, JointArtefact
from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.runtime import onnx_check
from flawscope.runtime.session import FEW, Answers, JointAnswers, together


@dataclass(frozen=True)
class Graph:
    """Network of a joint model, opened in an engine.

    run: turns inputs, by their names, into the results, in their order.
    """

    inputs: Collection[str]
    results: Sequence[str]
    on_cpu: bool
    run: Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]


class JointExportedSession(ABC):
    """Joint session of exported networks: the shared one turns images into features and descriptors, and a
    product's own turns features into scores and maps."""

    name: str  # of the engine, for people
    runtime: str
    lanes = 1

    def __init__(self, artefact: JointArtefact, device: str = "auto", threads: int | None = None):
        """InputError where a network does something that is not known, or has other inputs and outputs."""
        first = next(iter(artefact.products.values()))
        height, width = first.manifest.preprocess.network_size
        self.size, self.recogniser = (height, width), artefact.recogniser
        self.device, self.threads = device, threads
        precision = first.manifest.calibration.precision  # of the features; scores are computed in fp32
        self._embed = self._checked(first.tensors[EMBED], precision, ["features", "descriptors"])
        self.batch = 1 if self._embed.on_cpu else together(self.size, FEW)
        self.products = {
            name: ProductSession(self, self._checked(one.tensors[SCORE], "fp32", ["scores", "maps"]))
            for name, one in artefact.products.items()
        }

    @abstractmethod
    def _opened(self, network: bytes, precision: str) -> Graph:
        """Opens a network in the engine."""

    def _checked(self, network: NDArray[np.uint8], precision: str, results: list[str]) -> Graph:
        """Opens a network after it has been checked as one in an .onnx file is."""
        data = network.tobytes()
        try:
            onnx_check.check(data)
        except ValueError as error:
            raise InputError(f"cannot use this joint model: {error}; export it anew") from None
        try:
            graph = self._opened(data, precision)
        except InputError:
            raise
        except Exception as error:  # engines have no common class of errors
            raise InputError(f"{self.name} cannot use this joint model: {one_line(error)}") from None
        if [*graph.results] != results:
            raise InputError("cannot use this joint model: it has other outputs; export it anew")
        return graph

    def computed(self, graph: Graph, given: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[np.float32]]:
        """Results of a network. FlawscopeError where the engine fails."""
        try:
            return graph.run(given)
        except Exception as error:  # engines have no common class of errors
            raise FlawscopeError(f"{self.name} failed: {one_line(error)}") from None

    def features(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features [B, P, D] and descriptors [B, D'] of images."""
        features, descriptors = self.computed(self._embed, {"images": images})
        return features, descriptors

    def run(self, images: NDArray[np.float32]) -> JointAnswers:
        features, descriptors = self.features(images)
        found = self.recogniser.recognise(descriptors)
        answers = [
            self.products[one.nearest].score(features[k : k + 1], images[k : k + 1])
            for k, one in enumerate(found)
        ]
        scores, maps = (np.concatenate(part) for part in zip(*answers, strict=True))
        return found, scores, maps

    run_alone = run

    def save(self, artefact: JointArtefact, path: str | os.PathLike[str]) -> None:
        joint_file.write(artefact, path)


class ProductSession:
    """Session of one product of an exported joint model."""

    suffix = joint_file.SUFFIX
    lanes = 1

    def __init__(self, joint: JointExportedSession, graph: Graph):
        self.joint, self.graph, self.size, self.batch = joint, graph, joint.size, joint.batch
        self.runtime = joint.runtime

    def run(self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> Answers:
        return self.score(self.joint.features(images)[0], images)

    run_alone = run

    def score(self, features: NDArray[np.float32], images: NDArray[np.float32]) -> Answers:
        """Turns features into scores [B] and maps [B, H, W]."""
        given = {"features": features}
        if "images" in self.graph.inputs:  # where pictures are padded
            given["images"] = images
        scores, maps = self.joint.computed(self.graph, given)
        if (scores.shape, maps.shape) != ((len(images),), (len(images), *self.size)):
            raise FlawscopeError("the model's results have other shapes than they should: export it anew")
        return scores, maps

    def save(self, artefact: Artefact, path: str | os.PathLike[str]) -> None:
        raise InputError("a product of an exported joint model is no model by itself: take the fitted one's")
