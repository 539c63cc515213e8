"""The table of families has every network once, a reason for every rule, and explains a model layer by layer."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from small_graphs import make_every_kind

from fer_edge.bundle import open_bundle
from fer_edge.calibration.placement.families import FAMILIES, explain_placement, placement_of
from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, Placement, place
from fer_edge.calibration.placement.rules import FLOAT_RULES
from fer_edge.models.catalogue import CATALOGUE, SHIPPED, shipped_bundle


def test_every_network_is_in_one_family() -> None:
    counted = Counter(network for family in FAMILIES.values() for network in family.networks)
    assert counted == dict.fromkeys(CATALOGUE, 1)


def test_every_rule_is_known_used_and_has_a_reason() -> None:
    assert {rule for family in FAMILIES.values() for rule in family.rules} == set(FLOAT_RULES)
    for name, rule in FLOAT_RULES.items():
        assert rule.name == name
        assert len(rule.reason) > 20
    assert all(reason for family in FAMILIES.values() for reason in family.rules.values())


def test_a_network_of_no_family_has_every_rule_that_follows_from_shape() -> None:
    assert placement_of("somebody's own") is DEFAULT_PLACEMENT
    assert set(DEFAULT_PLACEMENT.rules) == set(FLOAT_RULES) - {"stem"}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_stays_in_floating_point_is_explained_layer_by_layer(name: str) -> None:
    bundle = open_bundle(shipped_bundle(name))
    model, network = onnx.load(bundle.model_path("fp32", "cpu")), bundle.spec.network
    placement = placement_of(network)
    placed = place(model, placement)
    rows = explain_placement(placed, network)
    assert [row.rule for row in rows] == list(placement.rules)
    explained = {layer for row in rows for layer in row.layers}
    weighted = {node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")}
    integer = {node.name for node in placed.integer_nodes}
    assert weighted - integer <= explained  # every layer that could be integer and is not has a reason
    assert not integer & explained
    for row in rows:
        assert row.layers, row.rule
        assert row.reason.endswith(FLOAT_RULES[row.rule].reason)
        assert len(row.reason) > len(FLOAT_RULES[row.rule].reason)


def test_mixed_precision_is_a_reason_of_its_own() -> None:
    placement = Placement(("head", "softmax"), frozenset({"conv2", "add"}))
    rows = explain_placement(place(make_every_kind(), placement), "none of ours")
    assert [(row.rule, row.layers) for row in rows] == [
        ("head", ("head",)), ("softmax", ("mask",)), ("mixed precision", ("add", "conv2")),
    ]  # fmt: skip
    assert rows[0].reason == FLOAT_RULES["head"].reason
