"""Run a bundle on a backend of your own: here the DNN module of OpenCV.

    python examples/own_backend.py photo.jpg

A backend has the attributes and methods of fer_edge.backends.Backend; BACKENDS holds it by its name. The self-test of
the bundle compares it with reference outputs before the first frame, and refuses a backend that computes something
else. OpenCV runs FP32 of standard operators, so the example takes the bundle visual-attention.
"""

import argparse
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx

from fer_edge import Runtime
from fer_edge.backends import BACKENDS, Availability, Backend, Session, SessionOptions
from fer_edge.bundle import ModelFile
from fer_edge.errors import BackendError, FerEdgeError


class OpenCvSession(Session):
    """A network in OpenCV."""

    largest_batch = 1  # of several faces, OpenCV 4 gives attention another shape: the self-test refuses that

    def __init__(self, content: bytes) -> None:
        self._outputs = [output.name for output in onnx.load_from_string(content).graph.output]
        self._network: cv2.dnn.Net | None = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        self._lock = threading.Lock()  # any thread may call

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        faces = []
        with self._lock:
            if self._network is None:
                raise BackendError("the session is closed: open another")
            for face in batch:
                self._network.setInput(face[None])
                faces.append([value.copy() for value in self._network.forward(self._outputs)])
        return {name: np.concatenate(values) for name, *values in zip(self._outputs, *faces, strict=True)}

    def close(self) -> None:
        with self._lock:
            self._network = None


class OpenCvBackend(Backend):
    """OpenCV's DNN module on the CPU."""

    name = "opencv"
    dialect = "cpu"

    def available(self) -> Availability:
        return Availability(True, cv2.__version__)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        return True  # nothing is compiled

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OpenCvSession:
        if options.precision not in (None, "fp32"):
            raise BackendError(f"opencv expected fp32, found {options.precision}: choose another backend")
        try:
            return OpenCvSession(model.content if isinstance(model, ModelFile) else model.read_bytes())
        except cv2.error as error:
            raise BackendError(f"opencv cannot load {model}: {error.err}") from error


BACKENDS[OpenCvBackend.name] = OpenCvBackend()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photograph")
    args = parser.parse_args()
    try:
        with Runtime("visual-attention", backend=OpenCvBackend.name) as runtime:
            print(
                f"{runtime.choice}: self-test {runtime.self_test.mode}, error {runtime.self_test.error:.1e}"
            )
            for face in runtime(args.photograph).faces:
                print(f"{face.label or face.reason}: {face.probability:.2f}")
    except FerEdgeError as error:
        sys.exit(str(error))
