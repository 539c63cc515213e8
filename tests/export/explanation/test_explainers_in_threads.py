"""Concurrent explanations: every thread receives those of its own face, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from crowds import count_wrong

from fer_edge.backends import BACKENDS, available_backends
from fer_edge.bundle import open_bundle
from fer_edge.errors import BackendError
from fer_edge.explanation.explain import BundleExplainer, Explainer, ExplainerOutput
from fer_edge.export.explanation.explainer import NetworkExplainer
from fer_edge.export.weights import load_weights
from fer_edge.models.catalogue import MODELS_FOLDER, shipped_bundle


def every_bit(explained: ExplainerOutput) -> tuple[bytes, bytes]:
    return explained.probabilities.tobytes(), explained.maps.tobytes()


@pytest.mark.parametrize("method", ["gradcam", "attention", *available_backends("cpu")])
def test_every_thread_gets_the_explanation_of_its_own_face(method: str) -> None:
    explainer: Explainer
    if method in BACKENDS:
        explainer = BundleExplainer(open_bundle(shipped_bundle()), BACKENDS[method], threads=1)
    else:
        explainer = NetworkExplainer(load_weights(MODELS_FOLDER / "conv-attention.safetensors"), method)
    rng = np.random.default_rng(2)
    faces = rng.normal(0, 1, (12, 1, *explainer.spec.input_shape)).astype(np.float32)
    expected = [every_bit(explainer.explain(face)) for face in faces]
    assert len(set(expected)) == len(faces)
    ask = lambda face: every_bit(explainer.explain(face))  # noqa: E731
    assert count_wrong(ask, faces, expected, 4, 5) == (0, 60)  # type: ignore[arg-type]
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        explainer.explain(faces[0])
