"""DAN's files: the order and form of Lasagne, comparison with a true convolution, bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import nn
from torch.nn import functional as F

from fer_edge._utils.files import sha256_of
from fer_edge.errors import UsageError, WeightsError
from fer_edge.export.checkpoints import load_any, load_dan, save_dan
from fer_edge.export.networks import NETWORKS
from fer_edge.export.networks.dan import Dan
from fer_edge.export.networks.landmark_transform import MEAN_FACE, landmark_heatmap


@pytest.fixture(scope="module")
def dan() -> Dan:
    torch.manual_seed(1)
    module = Dan().eval()
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.3, 0.6)
    for stage in (module.stage1, module.stage2):
        nn.init.normal_(stage.fc2.bias, std=3)
    nn.init.uniform_(module.image_mean, 0.3, 0.6)
    nn.init.uniform_(module.image_std, 0.2, 0.3)
    return module


@pytest.fixture(scope="module")
def file(dan: Dan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dan") / "DAN.npz"
    save_dan(path, dan)
    return path


def test_parameters_and_input() -> None:
    with torch.device("meta"):
        module = Dan()
    assert sum(p.numel() for p in module.parameters()) == 23_095_382
    with pytest.raises(UsageError, match=r"dan needs a batch \[B, 1, 112, 112\], found \[1, 1, 224, 224\]"):
        module(torch.zeros(1, 1, 224, 224, device="meta"))
    assert "dan" not in NETWORKS  # it has no logits


def test_default_shape_fills_half_the_frame_around_its_middle() -> None:
    points = Dan().initial_shape
    assert np.ptp(points.numpy(), axis=0).max() == pytest.approx(56, abs=0.01)
    torch.testing.assert_close(points, torch.tensor(MEAN_FACE) / 2)


def test_a_whole_landmark_marks_289_pixels_around_it() -> None:
    heatmap = landmark_heatmap(torch.tensor([[[40.0, 60.0]]]), 112, last_offset=8, epsilon=1e-6)[0, 0]
    rows, columns = torch.nonzero(heatmap, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), len(rows)) == (52, 68, 32, 48, 289)
    assert heatmap[60, 40].item() == pytest.approx(1 / (1 + 1e-3))
    assert heatmap[68, 32].item() == pytest.approx(1 / (1 + (128 + 1e-6) ** 0.5))


def test_round_trip_gives_the_same_landmarks(dan: Dan, file: Path) -> None:
    loaded, provenance = load_dan(file)
    assert not loaded.training
    assert provenance["weights_sha256"] == sha256_of(file)
    expected, found = dan.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        exact = not name.endswith(("running_var", "num_batches_tracked"))
        if exact:
            assert torch.equal(found[name], value), name
        elif name.endswith("running_var"):
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0)
    batch = torch.rand(2, 1, 112, 112, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        landmarks, again = dan(batch), loaded(batch)
    torch.testing.assert_close(again, landmarks, rtol=0, atol=2e-3)
    assert (landmarks - dan.initial_shape).abs().mean() > 1


def test_the_file_has_the_authors_arrays(file: Path) -> None:
    with np.load(file, allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        assert arrays["initLandmarks"].shape == (68, 2)
    assert len(shapes) == 105
    assert [shapes[f"arr_{i}"] for i in (0, 1, 4, 5, 39, 40, 44, 45, 46)] == [
        (64, 1, 3, 3), (64,), (64,), (64, 64, 3, 3), (512,), (25088, 256), (256,), (256, 136), (136,),
    ]  # fmt: skip
    assert [shapes[f"arr_{i}"] for i in (47, 48, 49, 52, 53, 93, 98, 99)] == [
        (256, 3136), (3136,), (3,), (3,), (64, 3, 3, 3), (25088, 256), (256, 136), (136,),
    ]  # fmt: skip


def test_first_layers_are_true_convolution_then_normalisation_then_relu(file: Path) -> None:
    """Computed from the file's arrays with SciPy, as Lasagne defines the layer."""
    module, _ = load_dan(file)
    image = np.random.default_rng(3).random((112, 112)).astype(np.float32)
    with np.load(file) as arrays:
        weight, beta, gamma, mean, inverse_std = (arrays[f"arr_{i}"] for i in range(5))
        hidden, dense = np.random.default_rng(4).random((2, 256), np.float32), arrays["arr_47"]
        bias = arrays["arr_48"]
    with torch.no_grad():
        found = module.stage1.conv1a(torch.from_numpy(image)[None, None])[0].numpy()
        feature = module.feature(torch.from_numpy(hidden)).numpy()
    for channel in (0, 31, 63):
        response = convolve2d(image, weight[channel, 0], mode="same")
        normalised = (response - mean[channel]) * inverse_std[channel] * gamma[channel] + beta[channel]
        np.testing.assert_allclose(found[channel], np.maximum(normalised, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(feature, hidden @ dense + bias, rtol=1e-4, atol=1e-5)


def test_hidden_layer_reads_channels_rows_columns(file: Path) -> None:
    module, _ = load_dan(file)
    features = torch.rand(1, 512, 7, 7)
    with np.load(file) as arrays:
        weight = arrays["arr_40"].reshape(512, 7, 7, 256)
    wanted = np.einsum("chw,chwk->k", features[0].numpy(), weight)
    with torch.no_grad():
        found = F.linear(features.flatten(1), module.stage1.fc1.weight)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


Change = Callable[[dict[str, np.ndarray]], object]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: [a.pop(f"arr_{i}") for i in range(47, 100)], r"53 of 103 arrays missing \(such as arr_47\)"),
        (lambda a: a.pop("stdDevImg"), r"1 of 103 arrays missing \(such as stdDevImg\)"),
        (lambda a: a.update(arr_100=np.zeros(2)), "more than 100 arrays, like the unsupported tracking variant"),
        (lambda a: a.update(arr_5=np.zeros((64, 64, 5, 5))), r"1 wrong shapes \(such as arr_5 is \(64, 64, 5, 5\), expected \(64, 64, 3, 3\)\)"),
        (lambda a: a.update(meanImg=np.zeros((224, 224))), r"meanImg has \(224, 224\), expected 12544 values"),
        (lambda a: a.update(arr_4=np.zeros(64)), "arr_4 in .* must hold inverse deviations"),
        (lambda a: a.update(arr_4=np.full(64, np.nan)), "arr_4 in .* must hold inverse deviations"),
        (lambda a: a.update(arr_46=np.full(136, np.inf)), "infinite values in 1 entries .such as stage1.fc2.bias"),
        (lambda a: a.update(stdDevImg=np.zeros((112, 112))), "stdDevImg in .* must be positive"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_named(file: Path, tmp_path: Path, change: Change, match: str) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    change(arrays)
    path = tmp_path / "DAN.npz"
    np.savez(path, **arrays)
    with pytest.raises(WeightsError, match=match) as caught:
        load_dan(path)
    assert str(path) in str(caught.value)


def test_as_an_expression_network_it_is_recognised_and_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match="It looks like dan, which finds landmarks and no expression"):
        load_any(file, "emotionaldan")
