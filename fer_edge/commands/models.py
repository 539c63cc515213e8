"""``fer-edge models``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from fer_edge._utils.files import sha256_of
from fer_edge.bundle import open_bundle
from fer_edge.commands.base import make_table, megabytes, percent, print_result
from fer_edge.commands.parser import offer
from fer_edge.errors import lookup
from fer_edge.models.catalogue import (
    CATALOGUE,
    MODELS_FOLDER,
    SHIPPED,
    shipped_bundle,
    shipped_figures,
)
from fer_edge.models.published import PUBLISHED, PUBLISHED_FILES
from fer_edge.probabilities import GIVEN, TRAINING
from fer_edge.spec import ModelSpec
from fer_edge.system.extras import install_command
from fer_edge.weights.cache import weights_folder

#: Values of the column "weights", and their meaning.
_WEIGHTS = {
    "ships": "with the package",
    "cached": "downloaded before",
    "download": "downloaded from the authors on first use",
    "unconfirmed": "tried at the authors' addresses, availability unknown",
    "your file": "give --weights FILE",
}
_BYTES_PER_PARAMETER = 4
#: Listed name → network: the shipped models of a network, else the network itself.
_NAMES = {
    name: network
    for network in CATALOGUE
    for name in [n for n, model in SHIPPED.items() if model.network == network] or [network]
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the name."""
    text = "show all details of this model"
    offer(parser.add_argument("name", nargs="?", metavar="NAME", help=text), lambda: _NAMES)


def execute(args: argparse.Namespace) -> int:
    """Print the catalogue, or the details of one model."""
    if args.name is not None:
        return _show_one(args)
    kinds = {name: _weights_kind(name) for name in _NAMES}
    rows = [
        (name, _citation(CATALOGUE[network].paper), kinds[name], _size(name), _accuracy(name))
        for name, network in _NAMES.items()
    ]
    print_result(
        args,
        _value(CATALOGUE, SHIPPED),
        make_table("Networks", ("name", "paper", "weights", "size", "accuracy"), rows),
        *(f"{kind}: {text}." for kind, text in _WEIGHTS.items() if kind in kinds.values()),
        "Size and accuracy are those of FP32, measured:",
        *(f"{name}: on {_conditions(name)}." for name in SHIPPED),
        "Without --prior, a runtime uses the default prior of its bundle.",
        "Details of one model: fer-edge models NAME",
    )
    return 0


def _value(networks: Mapping[str, Any], shipped: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "networks": {name: dataclasses.asdict(entry) for name, entry in networks.items()},
        "shipped": {
            name: {**dataclasses.asdict(model), "figures": shipped_figures(name)}
            for name, model in shipped.items()
        },
    }


def _citation(paper: str) -> str:
    """Return first author and year: ``Tautkute et al., 2018: EmotionalDAN`` → ``Tautkute 2018``."""
    return paper.partition(":")[0].replace(" et al.", "").replace(",", "")


def _weights_kind(name: str) -> str:
    if name in SHIPPED:
        return "ships"
    if not (files := PUBLISHED.get(name)):
        return "your file"
    if all((weights_folder() / file.name).is_file() for file in files):
        return "cached"
    return "download" if all(file.confirmed for file in files) else "unconfirmed"


def _size(name: str) -> str:
    if name in SHIPPED:
        return megabytes((MODELS_FOLDER / f"{name}.safetensors").stat().st_size)
    return megabytes(_BYTES_PER_PARAMETER * CATALOGUE[name].parameters)


def _accuracy(name: str) -> str:
    return percent(shipped_figures(name)["accuracy"]["fp32"]) if name in SHIPPED else ""


def _show_one(args: argparse.Namespace) -> int:
    name = args.name
    lookup(_NAMES, name, "model")
    network, spec = _NAMES[name], _spec(name)
    entry, shipped = CATALOGUE[network], {name: SHIPPED[name]} if name in SHIPPED else {}
    paper = [
        ("network", network),
        ("paper", entry.paper),
        ("parameters", f"{entry.parameters:,}"),
        ("multiply-adds", f"{entry.macs / 1e9:.2f} G"),
        ("weights", entry.weights),
        *(() if shipped else _spec_rows(spec)),
    ]
    files = {n: file for n, file in PUBLISHED_FILES.items() if file.network == name}
    files |= {file.name: file for file in PUBLISHED.get(name, ())}
    paths = [weights_folder() / n for n in files]
    if shipped:
        paths.append(MODELS_FOLDER / f"{name}.safetensors")
    sha256 = {str(path): sha256_of(path) for path in paths if path.is_file()}
    value = {
        **_value({network: entry}, shipped),
        "spec": None if spec is None else dataclasses.asdict(spec),
        "published": {n: {**dataclasses.asdict(f), "addresses": f.addresses} for n, f in files.items()},
        "sha256": sha256,
    }
    tables: list[Table | str] = [make_table(f"{name}: the network of the paper", ("", "value"), paper)]
    if shipped:
        rows = [*_spec_rows(spec), *_shipped_rows(name)]
        tables.append(make_table(f"{name}: the weights that ship", ("", "value"), rows))
    for file in files.values():
        facts = (("holds", file.remark), ("known", file.known), ("licence", file.licence))
        tables.append(make_table(f"Published as {file.name}", ("", "value"), facts))
        tables += [f"Address: {address}" for address in file.addresses]
    tables += [f"File: {path}\nsha256: {digest}" for path, digest in sha256.items()]
    if shipped:
        tables.append(f"Model card: {MODELS_FOLDER / f'{name}.md'}")
    print_result(args, value, *tables)
    return 0


def _spec(name: str) -> ModelSpec | None:
    """Return the spec of the shipped bundle, else of the network, which needs PyTorch."""
    if name in SHIPPED:
        return open_bundle(shipped_bundle(name)).spec
    try:
        from fer_edge.export.networks import NETWORKS
    except ImportError:
        return None
    return NETWORKS[name].spec


def _spec_rows(spec: ModelSpec | None) -> list[tuple[str, str]]:
    if spec is None:
        return [("input", f"shown with PyTorch: {install_command('export')}")]
    return [
        ("input", f"{spec.channels}×{spec.input_height}×{spec.input_width}, {spec.color}"),
        ("crop", f"{spec.crop.shape} × {spec.crop.scale}, edge {spec.crop.edge}"),
        ("outputs", ", ".join(spec.outputs)),
        ("classes", ", ".join(spec.class_names)),
    ]


def _shipped_rows(name: str) -> list[tuple[str, str]]:
    model, figures = SHIPPED[name], shipped_figures(name)
    both = ("fp32", "int8")
    bundle = open_bundle(shipped_bundle(name))
    default = bundle.manifest.default_prior or TRAINING
    return [
        ("about", model.summary),
        ("size in FP32", _size(name)),
        ("recipe", model.recipe),
        ("measured on", _conditions(name)),
        *(
            (title, ", ".join(f"{percent(figures[key][p])} {p.upper()}" for p in both))
            for key, title in (("accuracy", "accuracy"), ("macro_f1", "macro-F1"))
        ),
        ("default prior", default if isinstance(default, str) else GIVEN),
        ("licence", "Apache-2.0"),
    ]


def _conditions(name: str) -> str:
    """Return the data and the prior for which the figures of a shipped model hold."""
    figures = shipped_figures(name)
    return f"{figures['data']}, prior {figures['prior']}"
