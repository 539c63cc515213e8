"""A runtime on a simulated GPU with many threads: each gets the bit-exact result of its own image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crowds import count_wrong, draw_crowds, of_frame
from fake_device import FakeDevice, FakeNetwork, random_delays

from fer_edge import Runtime
from fer_edge.backends import BACKENDS, SessionOptions, tensorrt
from fer_edge.backends.tensorrt import TensorRtBackend, TensorRtSession
from fer_edge.bundle import open_bundle
from fer_edge.detection import DETECTORS
from fer_edge.engines.run.engine import TensorInfo
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.models.catalogue import shipped_bundle

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeDevice]]:
    """Simulated devices of the backend ``tensorrt``, which must be freed completely; ONNX Runtime computes."""
    bundle, opened = open_bundle(shipped_bundle()), list[FakeDevice]()
    session = BACKENDS["onnxruntime"].open(bundle.path / "model.onnx", SessionOptions(threads=1))
    shape = bundle.spec.input_shape
    outputs = tuple(
        TensorInfo(name, FLOAT32, values.shape[1:])
        for name, values in session.run(np.zeros((1, *shape), np.float32)).items()
    )

    def open_device() -> FakeDevice:
        network = FakeNetwork(session.run, TensorInfo("input", FLOAT32, shape), outputs)
        opened.append(FakeDevice(network, random_delays(len(opened), 0.0005)))
        return opened[-1]

    def open_session(*_: object) -> TensorRtSession:
        return TensorRtSession(EngineRunner(open_device, Path("fake.engine")))

    monkeypatch.setattr(TensorRtBackend, "open", open_session)
    monkeypatch.setattr(TensorRtBackend, "available", lambda self: tensorrt.Availability(True, "10.3.0"))
    yield opened
    for device in opened:
        assert device.hazards == []
        assert device.left() == {}
        assert device.closed


def ask(detector: str, crowds: list[np.ndarray], rounds: int) -> tuple[int, int]:
    """Return how many answers to eight threads were wrong, of how many; the answer of one is the same in one batch of any size."""
    with Runtime(backend="tensorrt", detector=detector) as runtime:
        expected = [of_frame(runtime(picture)) for picture in crowds]
        assert {len(answer) for answer in expected} >= {0, 1}  # type: ignore[arg-type]
        return count_wrong(lambda p: of_frame(runtime(p)), crowds, expected, 8, rounds)


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_every_thread_gets_the_answer_to_its_own_picture(
    detector: str, devices: list[FakeDevice], astronaut: np.ndarray
) -> None:
    assert ask(detector, draw_crowds(astronaut, 16), rounds=3) == (0, 48)


@pytest.mark.slow
@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_of_two_thousand_answers_none_is_wrong(
    detector: str, devices: list[FakeDevice], astronaut: np.ndarray
) -> None:
    assert ask(detector, draw_crowds(astronaut, 48), rounds=42) == (0, 2016)
