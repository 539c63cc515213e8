"""Sun et al.: sizes of the tables, the attention map's bounds and sums, illumination, export and INT8."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.errors import UsageError
from fer_edge.export.networks.illumination import diffuse, normalise_illumination, standardise
from fer_edge.export.networks.visual_attention import (
    VARIANTS,
    VISUAL_ATTENTION_SPEC,
    AttentionOutputs,
    VisualAttention,
    VisualAttentionOptions,
)
from fer_edge.export.onnx.export import export_onnx
from fer_edge.export.weights import TrainedNetwork
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

SIZE = VISUAL_ATTENTION_SPEC.input_shape


def network(seed: int = 0, **options: Any) -> VisualAttention:
    torch.manual_seed(seed)
    return VisualAttention(VisualAttentionOptions(**options)).eval()


def faces(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(prepare_batch(list(generate_faces(count, seed)), VISUAL_ATTENTION_SPEC))


class Scores(nn.Module):
    """Replaces the attention's perceptron by known scores A2."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, features: Tensor) -> Tensor:
        return self.scores.expand(len(features), 1, *features.shape[2:])


def attention_for(scores: Tensor, **options: Any) -> Tensor:
    module = network(**options)
    module.attention = Scores(scores)  # type: ignore[assignment]
    with torch.no_grad():
        return module(torch.rand(1, *SIZE)).attention[0]


# --- sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"variant": "baseline"}, 360_720),
        ({"variant": "baseline", "bias": True}, 361_255),
        ({"variant": "baseline", "bias": True, "table_exact": True}, 360_720),
        ({"variant": "baseline", "input_height": 272, "input_width": 272}, 563_216),
        ({"variant": "global-average"}, 305_168),
        ({"table_exact": True}, 313_682),
        ({}, 313_749),
        ({"bias": True}, 314_284),
        ({"variant": "attention-symmetric"}, 313_749),
    ],
)
def test_parameters(options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        module = VisualAttention(VisualAttentionOptions(**options))
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_outputs_and_spec() -> None:
    outputs = network()(faces(2))
    assert isinstance(outputs, AttentionOutputs)
    assert outputs._fields == VISUAL_ATTENTION_SPEC.outputs
    assert [tuple(o.shape) for o in outputs] == [(2, 7), (2, 9, 7), (2, 128)]
    for variant in ("baseline", "global-average"):
        assert network(variant=variant)(faces(2)).shape == (2, 7)
    spec = VISUAL_ATTENTION_SPEC
    assert (spec.input_shape, spec.color) == ((1, 144, 112), "gray")
    assert spec.class_names == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert (spec.mean, spec.std) == ((0,), (1,))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (47, 33), (272, 272)])
def test_any_side_from_16(height: int, width: int) -> None:
    outputs = network()(torch.rand(1, 1, height, width))
    assert outputs.attention.shape == (1, height // 16, width // 16)
    assert outputs.attention.sum().item() == pytest.approx(1, abs=1e-5)


def test_wrong_sizes_and_variants() -> None:
    with pytest.raises(UsageError, match="sides of at least 16, found 15×40"):
        network()(torch.rand(1, 1, 40, 15))
    with pytest.raises(UsageError, match="built for 112×144, found 144×112"):
        network(variant="baseline")(torch.rand(1, 1, 112, 144))
    with pytest.raises(UsageError, match="variant must be one of baseline, .*found 'max'"):
        network(variant="max")


# --- attention ----------------------------------------------------------------------------------------


def test_no_location_of_63_exceeds_the_bound() -> None:
    scores = torch.full((1, 1, 9, 7), -1.0)
    scores[0, 0, 4, 3] = 1
    largest = attention_for(scores)[4, 3].item()
    assert largest == pytest.approx(np.exp(2) / (np.exp(2) + 62))
    assert 0.106 < largest <= 0.107
    assert attention_for(scores, beta=4.0)[4, 3] > 0.9

    module = network(seed=1)
    with torch.no_grad():
        for layer in module.attention:
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(1e3)  # saturates both tanh
        attention = module(faces(8)).attention
    assert attention.max() <= 0.107
    assert attention.max() > 2 * attention.min()


def test_the_map_sums_to_one_and_weighs_the_features() -> None:
    module = network()
    batch = faces(3)
    with torch.no_grad():
        logits, attention, embedding = module(batch)
        features = module.features(module.prepare(batch))
    torch.testing.assert_close(attention.sum(dim=(1, 2)), torch.ones(3))
    torch.testing.assert_close(torch.einsum("bhw,bchw->bc", attention, features), embedding)
    torch.testing.assert_close(embedding @ module.head[1].weight.T, logits)


def test_scores_follow_equations_2_and_3() -> None:
    module = network()
    first, second = module.attention[0], module.attention[2]
    location = torch.randn(128)
    hidden = torch.tanh(first.weight[:, :, 0, 0] @ location + first.bias)
    score = torch.tanh(second.weight[:, :, 0, 0] @ hidden + second.bias)
    torch.testing.assert_close(module.attention(location.reshape(1, 128, 1, 1)).flatten(), score)


def test_beta_zero_is_the_global_average() -> None:
    average = network(variant="global-average")
    attentive = network(beta=0.0)
    attentive.load_state_dict(average.state_dict(), strict=False)
    torch.testing.assert_close(attentive(faces(2)).logits, average(faces(2)))


def test_symmetric_map() -> None:
    scores = torch.rand(1, 1, 9, 7, generator=torch.Generator().manual_seed(2)) * 2 - 1
    averaged = (scores + torch.flip(scores, dims=(3,)))[0, 0] / 2
    symmetric = attention_for(scores, variant="attention-symmetric")
    torch.testing.assert_close(symmetric, symmetric.flip(1))
    torch.testing.assert_close(symmetric, averaged.exp() / averaged.exp().sum())

    literal = attention_for(scores, variant="attention-symmetric", literal_symmetric=True)
    torch.testing.assert_close(literal, averaged.exp() / scores.exp().sum())
    assert 0.5 < literal.sum() < 0.99
    even = averaged[None, None]
    same = attention_for(even, variant="attention-symmetric", literal_symmetric=True)
    assert same.sum().item() == pytest.approx(1)


def test_gradients_reach_every_parameter() -> None:
    module = network(bias=True)
    module(faces(2)).logits.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# --- input --------------------------------------------------------------------------------------------


def laplacian(height: int, width: int) -> np.ndarray:
    """Five-point Laplacian with mirrored borders, entry by entry."""
    matrix = np.zeros((height * width, height * width))
    for y in range(height):
        for x in range(width):
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < height and 0 <= nx < width:
                    matrix[y * width + x, y * width + x] += 1
                    matrix[y * width + x, ny * width + nx] -= 1
    return matrix


@pytest.mark.parametrize("smoothness", [0.5, 7.0, 200.0])
def test_diffusion_solves_the_equation(smoothness: float) -> None:
    images = np.random.default_rng(0).random((2, 1, 9, 6)).astype(np.float32)
    system = np.eye(54) + smoothness * laplacian(9, 6)
    expected = np.linalg.solve(system, images.reshape(2, 54).T).T.reshape(images.shape)
    found = diffuse(torch.from_numpy(images), smoothness).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.mean(axis=(2, 3)), images.mean(axis=(2, 3)), rtol=1e-5)


def test_illumination_limits() -> None:
    images = torch.rand(1, 1, 20, 16) * 0.8 + 0.2
    torch.testing.assert_close(normalise_illumination(images, 0.0), torch.ones_like(images))
    torch.testing.assert_close(normalise_illumination(images, 1e9), images / images.mean())
    torch.testing.assert_close(normalise_illumination(images / 2, 7.0), normalise_illumination(images, 7.0))
    assert not normalise_illumination(torch.zeros(1, 1, 20, 16), 7.0).any()
    with pytest.raises(UsageError, match="smoothness must be at least 0, found -1"):
        normalise_illumination(images, -1.0)


def test_side_light_is_divided_out() -> None:
    module, batch = network(), faces(6)
    light = torch.linspace(0.4, 1, SIZE[2]).expand(batch.shape)
    with torch.no_grad():
        lit, even = module.prepare(batch * light), module.prepare(batch)
        raw, plain = standardise(batch * light), standardise(batch)
    assert (lit - even).abs().mean() < 0.3 * (raw - plain).abs().mean()


def test_every_image_is_standardised_on_its_own() -> None:
    batch = faces(3)
    for illumination in (None, 7.0):
        module = network(illumination=illumination)
        prepared = module.prepare(batch)
        torch.testing.assert_close(prepared.mean(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(prepared.std(dim=(1, 2, 3), correction=0), torch.ones(3))
        torch.testing.assert_close(module.prepare(batch[1:2]), prepared[1:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_stay_finite(value: float) -> None:
    module = network()
    batch = torch.full((1, *SIZE), value)
    assert module.prepare(batch).abs().max() < 0.01
    assert all(torch.isfinite(output).all() for output in module(batch))


# --- devices ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_outputs(variant: str, tmp_path: Path) -> None:
    module = network(variant=variant)
    attentive = variant.startswith("attention")
    names = VISUAL_ATTENTION_SPEC.outputs if attentive else ("logits",)
    spec = dataclasses.replace(VISUAL_ATTENTION_SPEC, outputs=names)
    path = tmp_path / "model.onnx"
    assert export_onnx(TrainedNetwork(module, spec, {}, {}), path).max_abs_difference <= 1e-4

    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"Cast", "Transpose", "If", "Loop"}
    session = BACKENDS["openvino"].open(path, SessionOptions(threads=1))
    for size in (1, 3):
        batch = faces(size, seed=size)
        found = session.run(batch.numpy())
        with torch.no_grad():
            expected = module(batch)
        for name, reference in zip(names, expected if attentive else [expected], strict=True):
            np.testing.assert_allclose(found[name], reference, rtol=0, atol=1e-4, err_msg=name)
    session.close()


@pytest.mark.slow
def test_int8_keeps_logits_and_attention(tmp_path: Path) -> None:
    module, path = network(), tmp_path / "model.onnx"
    export_onnx(TrainedNetwork(module, VISUAL_ATTENTION_SPEC, {}, {}), path)
    ranges = observe(path, [faces(8, seed=9).numpy()], {}).ranges("minmax")
    batch = faces(8, seed=5)
    with torch.no_grad():
        expected = module(batch)
    centred = expected.logits - expected.logits.mean(dim=0)
    for dialect in ("cpu", "tensorrt"):
        quantised = tmp_path / f"model.{dialect}.onnx"
        onnx.save(quantise(onnx.load(path), ranges, dialect), quantised)
        session = BACKENDS["onnxruntime"].open(quantised, SessionOptions(threads=1))
        found = session.run(batch.numpy())
        session.close()
        logits = torch.from_numpy(found["logits"])
        similarity = torch.cosine_similarity(
            (logits - logits.mean(dim=0)).flatten(), centred.flatten(), dim=0
        )
        assert similarity > 0.97, dialect  # of the differences between faces
        np.testing.assert_allclose(found["attention"].sum(axis=(1, 2)), 1, rtol=1e-5)
        np.testing.assert_allclose(found["attention"], expected.attention, rtol=0, atol=0.004)
