"""Built-in attention: each paper's map, and the ONNX output that carries it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_gradcam import lively_resmasking, turned_dan

from fer_edge.backends import BACKENDS, SessionOptions, available_backends
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import Bundle
from fer_edge.errors import BundleError, UsageError
from fer_edge.export.explanation.attention import (
    AttentionOptions,
    attention_maps,
    raw_attention,
    with_attention,
)
from fer_edge.export.networks import build_network
from fer_edge.export.networks.conv_attention import ConvAttention, ConvAttentionOptions
from fer_edge.export.networks.feratt import FERAtt, FERAttOptions
from fer_edge.export.networks.resmasking import ResMasking
from fer_edge.export.networks.resnet import ResNet
from fer_edge.export.networks.visual_attention import VisualAttention, VisualAttentionOptions
from fer_edge.export.weights import load_weights
from fer_edge.models.catalogue import MODELS_FOLDER, shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

WEIGHTS = MODELS_FOLDER / "conv-attention.safetensors"


@pytest.fixture(scope="module")
def resmasking() -> tuple[ResMasking, torch.Tensor]:
    return lively_resmasking(), torch.rand(1, 3, 64, 96)


def test_the_channel_mean_of_a_mask_is_constant_by_construction(
    resmasking: tuple[ResMasking, torch.Tensor],
) -> None:
    module, batch = resmasking
    with torch.no_grad():
        stages = module.forward_stages(batch)
    for mask in stages.masks:
        mean = mask.mean(1)
        torch.testing.assert_close(mean, torch.full_like(mean, 1 / mask.shape[1]), rtol=1e-5, atol=0)


def test_resmasking_shows_the_change_of_features(resmasking: tuple[ResMasking, torch.Tensor]) -> None:
    module, batch = resmasking
    with torch.no_grad():
        stages = module.forward_stages(batch)
    for stage in (2, 3):
        found = raw_attention(module, batch, AttentionOptions(stage=stage))
        change = (stages.after[stage - 1] - stages.before[stage - 1]).abs().mean(1)
        torch.testing.assert_close(found, change, rtol=1e-3, atol=1e-6)
    shown = attention_maps(module, batch)  # stage 3
    assert (shown.amin(), shown.amax()) == (0, 1)
    torch.testing.assert_close(shown, (found - found.min()) / (found.max() - found.min()))
    for name, maps in (
        ("mask", stages.masks[1].amax(1)),
        ("before", stages.before[1].mean(1)),
        ("after", stages.after[1].mean(1)),
    ):
        torch.testing.assert_close(raw_attention(module, batch, AttentionOptions(name, 2)), torch.relu(maps))


@pytest.mark.parametrize("stage", [0, 5])
def test_stages_that_do_not_exist(resmasking: tuple[ResMasking, torch.Tensor], stage: int) -> None:
    with pytest.raises(UsageError, match="stages 1 to 4"):
        attention_maps(*resmasking, AttentionOptions(stage=stage))


@pytest.fixture(scope="module")
def small() -> tuple[ConvAttention, torch.Tensor]:
    torch.manual_seed(0)
    options = ConvAttentionOptions(1, 3, 4, (4, 8), (8, 8, 8), c4_width=6, dense_width=8, gamma_init=0.7)
    module = ConvAttention(options).eval()
    with torch.no_grad():
        module.attention.query.weight.mul_(3e4)
    return module, torch.rand(2, 1, 48, 64)


def test_self_attention_rows_and_what_each_location_receives(
    small: tuple[ConvAttention, torch.Tensor],
) -> None:
    module, batch = small
    with torch.no_grad():
        features = module.features(batch)
        query, key = module.attention.query(features), module.attention.key(features)
    height, width = features.shape[2:]
    assert (height, width) == (6, 8)
    rows = np.zeros((2, height, width, height, width))
    for b in range(2):
        for i in np.ndindex(height, width):
            scores = np.array(
                [
                    [float(query[b, :, i[0], i[1]] @ key[b, :, r, c]) for c in range(width)]
                    for r in range(height)
                ]
            )
            exponentials = np.exp(scores - scores.max())
            rows[b, i[0], i[1]] = exponentials / exponentials.sum()
    np.testing.assert_allclose(raw_attention(module, batch), rows.mean(axis=(1, 2)), atol=1e-6)
    row = raw_attention(module, batch, AttentionOptions("row", row=4, column=7))
    np.testing.assert_allclose(row, rows[:, 4, 7], atol=1e-6)
    assert np.ptp(rows[0, 4, 7]) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AttentionOptions("row"), "Fix: give row 0 to 5 and column 0 to 7"),
        (AttentionOptions("row", row=6, column=0), "lies outside the 6×8 map"),
        (AttentionOptions("row", row=-1, column=0), "lies outside the 6×8 map"),
        (AttentionOptions("rows"), "did you mean 'row'"),
    ],
)
def test_rows_that_do_not_exist(
    small: tuple[ConvAttention, torch.Tensor], options: AttentionOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        attention_maps(*small, options)


@pytest.mark.parametrize("variant", ["attention", "attention-symmetric"])
def test_visual_attention_shows_b(variant: str) -> None:
    torch.manual_seed(0)
    module = VisualAttention(VisualAttentionOptions(variant)).eval()
    batch = torch.rand(2, 1, 144, 112)
    found = raw_attention(module, batch)
    assert found.shape == (2, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(found, module(batch).attention)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))


def test_feratt_shows_the_attended_face_or_its_gate() -> None:
    torch.manual_seed(0)
    module = FERAtt(FERAttOptions(variant="2020")).eval()
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        parts = module.forward_parts(batch)
        _, _, gate = module(batch)
    torch.testing.assert_close(raw_attention(module, batch), parts.face.mean(1))
    torch.testing.assert_close(raw_attention(module, batch, AttentionOptions("gate")), gate)


def test_emotionaldan_offers_its_landmarks_in_the_frame_of_the_input() -> None:
    module, landmarks = turned_dan()
    batch = torch.rand(1, 1, 224, 224)
    with pytest.raises(UsageError, match="--method gradcam, or --map landmarks"):
        attention_maps(module, batch)
    heat = attention_maps(module, batch, AttentionOptions("landmarks"))[0]
    x, y = landmarks.round().long().T
    assert heat[y, x].min() > 0.4
    assert heat[:20].max() == 0
    unmoved = module.canonical_shape.round().long().T
    assert heat[unmoved[1], unmoved[0]].mean() < 0.5 * heat[y, x].mean()


@pytest.mark.parametrize(
    "module",
    [ResNet(), VisualAttention(VisualAttentionOptions("baseline")), VisualAttention(VisualAttentionOptions("global-average"))],
    ids=["resnet18", "baseline", "global-average"],
)  # fmt: skip
def test_networks_without_attention_name_grad_cam(module: torch.nn.Module) -> None:
    channels = 3 if isinstance(module, ResNet) else 1
    with pytest.raises(UsageError, match="--method gradcam"):
        attention_maps(module.eval(), torch.rand(1, channels, 144, 112))


# --- the ONNX output ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = BuildOptions(
        weights=str(WEIGHTS), calibration_images=32, comparison_images=16, attention=True,
        output=tmp_path_factory.mktemp("bundle") / "attentive.fer",
    )  # fmt: skip
    return build(options).bundle


@pytest.fixture(scope="module")
def batch(bundle: Bundle) -> np.ndarray:
    return prepare_batch(list(generate_faces(5)), bundle.spec)


@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_the_exported_attention_is_that_of_pytorch(bundle: Bundle, batch: np.ndarray, backend: str) -> None:
    assert bundle.spec.outputs == ("logits", "attention")
    trained = load_weights(WEIGHTS)
    expected = raw_attention(trained.module, torch.from_numpy(batch)).numpy()
    session = BACKENDS[backend].open(bundle.model_path("fp32", "cpu"), SessionOptions(threads=1))
    for part in (slice(None), slice(0, 1)):
        found = session.run(batch[part])
        np.testing.assert_allclose(found["attention"], expected[part], atol=1e-5)
        with torch.no_grad():
            np.testing.assert_allclose(
                found["logits"], trained.module(torch.from_numpy(batch[part])), atol=1e-4
            )
    session.close()


@pytest.mark.parametrize(
    ("backend", "dialect"), [*((b, "cpu") for b in available_backends("cpu")), ("onnxruntime", "tensorrt")]
)
def test_the_attention_of_int8_stays_in_floating_point(
    bundle: Bundle, batch: np.ndarray, backend: str, dialect: str
) -> None:
    path = bundle.model_path("int8", dialect)
    graph = onnx.load(path).graph
    (attention,) = (node for node in graph.node if node.op_type == "SelfAttention")
    behind = {attention.output[1]}
    for node in graph.node:
        if behind.intersection(node.input):
            assert node.op_type in {"Reshape"}
            behind.update(node.output)
    assert "attention" in behind
    session = BACKENDS[backend].open(path, SessionOptions(threads=1))
    found = session.run(batch)["attention"]
    session.close()
    expected = raw_attention(load_weights(WEIGHTS).module, torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(found.sum((1, 2)), 1, atol=1e-4)
    for a, b in zip(found, expected, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_an_attention_output_changes_no_layer_name(bundle: Bundle) -> None:
    """Ranges and sensitivity tables of a bundle without it stay valid by name."""
    with_map = {n.name for n in onnx.load(bundle.model_path("fp32", "cpu")).graph.node}
    without = {n.name for n in onnx.load(shipped_bundle() / "model.onnx").graph.node}
    assert {name for name in without if "Conv" in name or "Gemm" in name} <= with_map


def test_the_network_itself_is_not_changed() -> None:
    trained = load_weights(WEIGHTS)
    attentive = with_attention(trained)
    images = torch.rand(1, 1, 48, 48)
    with torch.no_grad():
        assert isinstance(trained.module(images), torch.Tensor)
        logits, received = attentive.module(images)
        torch.testing.assert_close(logits, trained.module(images))
    assert received.shape == (1, 6, 6)
    assert trained.spec.outputs == ("logits",)
    assert with_attention(attentive) is attentive


def test_networks_without_attention_cannot_be_built_with_it(tmp_path: Path) -> None:
    trained = load_weights(WEIGHTS)
    from dataclasses import replace

    plain = replace(trained, module=build_network("emotionaldan-1stage").eval())
    with pytest.raises(UsageError, match="no built-in attention to export.*gradcam"):
        with_attention(plain)


def test_building_with_attention_from_a_bundle_that_ships_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = Bundle(shipped_bundle(), build_manifest_without_attention())
    monkeypatch.setattr("fer_edge.builder.plan.open_bundle", lambda path: shipped)
    with pytest.raises(BundleError, match="has no attention output.*--weights FILE --attention"):
        build(BuildOptions(attention=True, output=tmp_path / "a.fer"))
    assert not (tmp_path / "a.fer").exists()


def build_manifest_without_attention():  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from fer_edge.bundle import open_bundle

    manifest = open_bundle(shipped_bundle()).manifest
    return replace(manifest, spec=replace(manifest.spec, outputs=("logits",)))
