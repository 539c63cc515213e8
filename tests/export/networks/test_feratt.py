"""FERAtt: sizes, the original networks' outputs, the authors' files, ONNX and INT8.

Outside the golden tests networks live on the meta device, or hold one stored number per entry.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from golden_outputs import Golden, GoldenFolder
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.errors import UsageError, WeightsError
from fer_edge.export.checkpoints.feratt import (
    SIGNATURE,
    from_author_2019,
    from_author_2020,
    from_author_paper,
    to_author,
)
from fer_edge.export.networks.feratt import (
    FERATT_2019_SPEC,
    FERATT_2020_SPEC,
    FERATT_SPEC,
    OUTPUTS,
    VARIANTS,
    FERAtt,
    FERAttOptions,
)
from fer_edge.export.onnx.export import export_onnx
from fer_edge.export.weights import TrainedNetwork, fill
from fer_edge.labels import FERPLUS
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic.drawn import generate_faces

State = dict[str, Tensor]
READERS = {"paper": from_author_paper, "2019": from_author_2019, "2020": from_author_2020}
SPECS = {"paper": FERATT_SPEC, "2019": FERATT_2019_SPEC, "2020": FERATT_2020_SPEC}

#: In every total of specs/networks.md, section 2, and never used: encoder.fc.
UNUSED = 513_000


@functools.cache
def on_meta(variant: str, embedding: int | None = 64, num_classes: int = 8) -> FERAtt:
    """Return a network without values, the same object for the same arguments."""
    with torch.device("meta"):
        return FERAtt(FERAttOptions(num_classes, embedding, variant)).eval()


# --- sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "embedding", "parameters", "entries"),
    [
        ("paper", 64, 47_921_140, 594),
        ("paper", 1000, 48_408_796, 594),
        ("2019", None, 46_384_868, 590),
        ("2019", 64, 46_417_652, 590),
        ("2020", None, 46_305_737, 609),
        ("2020", 64, 46_334_985, 611),
        ("2020", 32, 46_318_313, 611),
    ],
)
def test_sizes_are_those_of_the_authors_code(
    variant: str, embedding: int | None, parameters: int, entries: int
) -> None:
    module = on_meta(variant, embedding)
    assert sum(p.numel() for p in module.parameters()) == parameters - UNUSED
    author = to_author(module)
    assert len(author) == entries
    assert SIGNATURE in author
    assert sum(v.numel() for name, v in author.items() if ".fc." in name) == UNUSED


@pytest.mark.parametrize(
    ("variant", "embedding", "gmacs"), [("paper", 64, 5.55), ("2019", 64, 10.09), ("2020", None, 2.60)]
)
def test_multiply_adds(variant: str, embedding: int | None, gmacs: float) -> None:
    module, shape = on_meta(variant, embedding), SPECS[variant].input_shape
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        positions = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        counts.append(positions.numel() * layer.get_parameter("weight")[0].numel())

    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    module(torch.zeros(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    assert len(counts) == len(layers)
    assert sum(counts) / 1e9 == pytest.approx(gmacs, abs=0.005)


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_parts(variant: str) -> None:
    height, width = (128, 128) if variant == "paper" else (64, 128)
    batch = torch.zeros(2, 3, height, width, device="meta")
    module = on_meta(variant, num_classes=5)
    maps, features = (5, 5) if variant == "2020" else (1, 32)
    assert [tuple(value.shape) for value in module(batch)] == [(2, 5), (2, 64), (2, height, width)]
    parts = module.forward_parts(batch)
    assert parts.face.shape == (2, 3, height, width)
    assert parts.attention_logits.shape == (2, maps, height, width)
    assert parts.features.shape == (2, features, height, width)
    assert parts.class_input.shape[2] == height // VARIANTS[variant].pool


def test_class_only_network_gives_the_pooled_features_as_embedding() -> None:
    logits, embedding, _ = on_meta("2020", None)(torch.zeros(2, 3, 64, 64, device="meta"))
    assert (logits.shape, embedding.shape) == ((2, 8), (2, 512))


@pytest.mark.parametrize(
    ("variant", "side", "match"),
    [
        ("paper", 64, "feratt needs 128×128 input, found 64×64"),
        ("2019", 96, "feratt-2019 needs sides that are multiples of 64, found 96×96"),
        ("2020", 100, "feratt-2020 needs sides that are multiples of 64, found 100×100"),
    ],
)
def test_other_sides_are_refused(variant: str, side: int, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        on_meta(variant)(torch.zeros(1, 3, side, side, device="meta"))


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown FERAtt variant '2018'"):
        on_meta("2018")


def test_specs() -> None:
    for variant, spec in SPECS.items():
        assert spec.network == VARIANTS[variant].network
        assert (spec.class_names, spec.outputs, spec.crop.shape) == (FERPLUS, OUTPUTS, "box")
    assert (FERATT_SPEC.input_shape, FERATT_SPEC.color) == ((3, 128, 128), "rgb")
    assert (FERATT_SPEC.mean, FERATT_SPEC.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (FERATT_2019_SPEC.input_shape, FERATT_2019_SPEC.color) == ((3, 128, 128), "rgb")
    assert (FERATT_2020_SPEC.input_shape, FERATT_2020_SPEC.color) == ((3, 64, 64), "gray")
    for spec in (FERATT_2019_SPEC, FERATT_2020_SPEC):
        assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


# --- the original networks ----------------------------------------------------------------------------


@dataclasses.dataclass
class Filled:
    """A variant with the weights of the original."""

    variant: str
    original: Golden
    module: FERAtt

    @property
    def spec(self) -> ModelSpec:
        names = FERPLUS[: self.module.options.num_classes]
        return dataclasses.replace(SPECS[self.variant], class_names=names)


@pytest.fixture(scope="module", params=["paper", "2020"])
def filled(request: pytest.FixtureRequest, golden_folder: GoldenFolder) -> Filled:
    variant = request.param
    golden = golden_folder.load(f"feratt_{variant}")
    author = {name: torch.from_numpy(value) for name, value in golden.weights().items()}
    options, own = READERS[variant](author, "golden")
    classes = len(golden.arrays["logits"][0])
    assert options == {"num_classes": classes, "embedding": 64, "variant": variant}
    module = FERAtt(FERAttOptions(**options)).eval()
    fill(module, own, "golden")
    return Filled(variant, golden, module)


def check_against(golden: Golden, module: FERAtt, prefix: str = "", pooled_face: float = 2e-5) -> None:
    with torch.no_grad():
        parts = module.forward_parts(torch.from_numpy(golden.batch()))
    found = {
        "logits": (parts.logits, 1e-4),
        "embedding": (parts.embedding, 1e-4),
        "class_input_32": (parts.class_input, 2e-5),
        "i_att_pool32": (F.adaptive_avg_pool2d(parts.face, 32), pooled_face),
        "attention_logit_pool32": (F.adaptive_avg_pool2d(parts.attention_logits, 32), 2e-5),
        "features_pool16": (F.adaptive_avg_pool2d(parts.features[:, :8], 16), 2e-5),
    }
    compared = 0
    for name, (value, tolerance) in found.items():
        if prefix + name in golden.arrays:
            expected = golden.arrays[prefix + name]
            np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=tolerance, err_msg=name)
            compared += 1
    assert compared == (2 if prefix else 6)
    zeros = (parts.face == 0).sum(dim=(1, 2, 3)).tolist()
    assert zeros == golden.arrays[f"{prefix}i_att_zeros"].tolist()


@pytest.mark.slow
def test_outputs_of_the_original_network(filled: Filled) -> None:
    check_against(filled.original, filled.module)
    author = to_author(filled.module)
    assert list(author) == list(filled.original.keys)
    assert {name: tuple(value.shape) for name, value in author.items()} == filled.original.keys


@pytest.mark.slow
def test_dead_zone_of_the_original_network(filled: Filled) -> None:
    if filled.variant != "paper":
        assert not VARIANTS[filled.variant].dead_zone
        return
    last = filled.module.reconstruction[1]
    assert isinstance(last, nn.Conv2d)
    kept = {name: value.clone() for name, value in last.state_dict().items()}
    last.load_state_dict({name: value * 0.001 for name, value in kept.items()})
    try:
        check_against(filled.original, filled.module, "deadzone_", pooled_face=1e-7)
    finally:
        last.load_state_dict(kept)


@pytest.mark.slow
def test_onnx_and_int8(filled: Filled, tmp_path: Path) -> None:
    path, spec = tmp_path / "model.onnx", filled.spec
    faces = list(generate_faces(4, seed=5))
    report = export_onnx(TrainedNetwork(filled.module, spec, {}, {}), path, faces[:2])
    assert report.same_argmax
    batch = prepare_batch(faces, spec)
    with torch.inference_mode():
        expected = dict(zip(OUTPUTS, filled.module(torch.from_numpy(batch)), strict=True))
    attention = expected["attention"].numpy()
    assert 0 < attention.min() < attention.max() <= 1

    # These weights give logits of scale 100 on faces: float32 kernels differ by some 1e-4 of that.
    for backend in ("onnxruntime", "openvino"):
        session = BACKENDS[backend].open(path, SessionOptions(threads=1))
        for size in (1, 3):
            found = session.run(batch[:size])
            assert set(found) == set(OUTPUTS)
            for name in OUTPUTS:
                np.testing.assert_allclose(
                    found[name],
                    expected[name][:size].numpy(),
                    rtol=1e-5,
                    atol=2e-4,
                    err_msg=f"{backend} {name}",
                )
        session.close()

    ranges = observe(path, [batch], {"name": "generated"}).ranges("minmax")
    logits = expected["logits"].numpy()
    for dialect in DIALECTS:
        small = tmp_path / f"{dialect}.onnx"
        onnx.save(quantise(onnx.load(path), ranges, dialect), small)
        # The cpu dialect leaves the paper's transposed convolutions in floating point.
        assert small.stat().st_size < 0.35 * path.stat().st_size
        session = BACKENDS["onnxruntime"].open(small, SessionOptions(threads=1))
        found = session.run(batch)
        session.close()
        assert cosine(found["logits"], logits).min() > 0.998, dialect
        # The differences between faces are kept, too.
        spread = logits - logits.mean(axis=0)
        assert cosine((found["logits"] - found["logits"].mean(axis=0)).ravel(), spread.ravel()) > 0.9, dialect
        assert found["attention"].shape == attention.shape


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


# --- the authors' files -------------------------------------------------------------------------------


def light(variant: str, embedding: int | None = 64) -> FERAtt:
    """A network whose entries each repeat one number of their own."""
    module = copy.deepcopy(on_meta(variant, embedding))
    values = {
        name: torch.tensor(1 + i, dtype=value.dtype).expand(value.shape)
        for i, (name, value) in enumerate(module.state_dict().items())
    }
    module.load_state_dict(values, assign=True)
    return module


@pytest.mark.parametrize("embedding", [64, None])
@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, embedding: int | None) -> None:
    module = light(variant, embedding)
    options, own = READERS[variant](to_author(module), "file")
    assert FERAttOptions(**options) == module.options
    expected = module.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(value, own[name]) for name, value in expected.items())


def test_names_of_the_authors() -> None:
    paper, later = to_author(light("paper")), to_author(light("2019"))
    for author, prefix in ((paper, ""), (later, "attention_map.")):
        assert author[f"{prefix}encoder.layer3.1.bn2.bias"] is author[f"{prefix}conv4.1.bn2.bias"]
        assert author[f"{prefix}encoder.bn1.weight"] is author[f"{prefix}conv1.1.weight"]
        assert f"{prefix}attention_map.0.conv.weight" in author
    assert {"center.conv_d4.bias", "dec5.block.1.weight"} <= paper.keys()
    assert {"attention_map.center.cr2.conv.bias", "attention_map.dec1.cr1.conv.weight"} <= later.keys()
    with pytest.raises(TypeError, match="expected a FERAtt network, found Linear"):
        to_author(nn.Linear(1, 1))


@pytest.mark.parametrize(("stored", "asked"), [*itertools.permutations(VARIANTS, 2)])
def test_variants_are_told_apart(stored: str, asked: str) -> None:
    author = to_author(on_meta(stored))
    network = VARIANTS[stored].network
    match = f"^file holds the {stored} variant of FERAtt, expected {asked}. Fix: give --model {network}.$"
    with pytest.raises(WeightsError, match=match):
        READERS[asked](author, "file")


Change = Callable[[State], object]


@pytest.mark.parametrize(
    ("variant", "change", "match"),
    [
        (
            "paper",
            lambda s: s.update({"encoder.bn1.bias": torch.zeros(64)}),
            "encoder entry conv1.1.bias also as encoder.bn1.bias with equal values",
        ),
        (
            "paper",
            lambda s: s.pop("conv5.2.conv2.weight"),
            "entry conv5.2.conv2.weight also as encoder.layer4.2.conv2.weight",
        ),
        (
            "2020",
            lambda s: s.pop("attention_map.encoder.conv1.weight"),
            "attention_map.conv1.0.weight also as attention_map.encoder.conv1.weight",
        ),
        ("2020", lambda s: s.pop("netclass.linear.weight"), r"file has no classifier \(netclass.linear.weight\)"),
        (
            "paper",
            lambda s: s.update({"netclass.linear.weight": torch.zeros(1).expand(10**9, 512)}),
            "representation of 1000000000 values, expected 64 and at most 4096",
        ),
    ],
)  # fmt: skip
def test_wrong_entries_are_named(variant: str, change: Change, match: str) -> None:
    author = to_author(light(variant))
    change(author)
    with pytest.raises(WeightsError, match=match):
        READERS[variant](author, "file")


def test_nan_in_the_encoder_is_no_mismatch_and_strangers_are_kept() -> None:
    author = to_author(light("2019"))
    for name in ("attention_map.conv1.1.bias", "attention_map.encoder.bn1.bias"):
        author[name] = torch.full((64,), torch.nan)
    author["attention_map.encoder.layer9.weight"] = torch.zeros(1)
    del author["attention_map.encoder.fc.weight"]  # unused, so it need not be there
    _, own = from_author_2019(author, "file")
    assert own["attention_map.conv1.1.bias"].isnan().all()
    assert own.keys() - on_meta("2019").state_dict().keys() == {"attention_map.encoder.layer9.weight"}
