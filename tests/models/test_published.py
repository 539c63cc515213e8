"""Published weights: their addresses, descriptions, and download to the cache."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from web_server import Behaviour, Server, serving

from fer_edge._utils.files import combined_sha256, sha256_of
from fer_edge.cli import main
from fer_edge.errors import DownloadError, FerEdgeError, UsageError, WeightsError
from fer_edge.export.networks.baselines import MEMBERS
from fer_edge.models.catalogue import CATALOGUE
from fer_edge.models.published import PUBLISHED, PUBLISHED_FILES
from fer_edge.weights.cache import cached_weights, find_weights, weights_folder
from fer_edge.weights.download import DownloadOptions
from fer_edge.weights.request import request_weights

NAME = "efficientnet_b2b_rot30_2019Nov15_20.02"
NETWORK = "efficientnet-b2b"
PATH = f"/phamquiluan/ResidualMaskingNetwork/{NAME}"
CONTENT = b"\x80\x02weights" + bytes(4 * CATALOGUE[NETWORK].parameters)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FAST = DownloadOptions(silence_s=0.3, first_wait_s=0.01, longest_wait_s=0.1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FER_EDGE_OFFLINE", "1")
    monkeypatch.delenv("FER_EDGE_WEIGHTS_MIRROR", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def mirror(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving({PATH: CONTENT}) as server:
        monkeypatch.setenv("FER_EDGE_WEIGHTS_MIRROR", server.address + "/")
        monkeypatch.setenv("FER_EDGE_OFFLINE", "0")
        yield server


def find(weights: str = "auto", sha256: str | None = None, network: str = NETWORK):  # type: ignore[no-untyped-def]
    return find_weights(request_weights(network, weights, sha256), options=FAST)


def test_the_addresses_are_those_of_the_authors() -> None:
    (file,) = PUBLISHED["resmasking"]
    assert file.addresses == (
        "https://huggingface.co/phamquiluan/ResidualMaskingNetwork/resolve/main/Z_resmasking_dropout1_rot30_2019Nov30_13.32",
        "https://github.com/phamquiluan/ResidualMaskingNetwork/releases/download/v0.0.1/Z_resmasking_dropout1_rot30_2019Nov30_13.32",
    )
    assert (
        file.mirror_path == "/phamquiluan/ResidualMaskingNetwork/Z_resmasking_dropout1_rot30_2019Nov30_13.32"
    )
    assert "VEMO" in file.remark
    assert "74" not in file.remark


def test_every_member_of_the_ensemble_has_its_file() -> None:
    assert [file.name for file in PUBLISHED["resmasking-ensemble"]] == [
        m.checkpoint for m in MEMBERS.values()
    ]
    assert [name for name, file in PUBLISHED_FILES.items() if file.confirmed] == [
        PUBLISHED["resmasking"][0].name
    ]
    assert {file.network for file in PUBLISHED_FILES.values()} | {"resmasking-ensemble"} == set(PUBLISHED)
    assert set(PUBLISHED) <= set(CATALOGUE)


def test_the_catalogue_says_which_weights_are_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    shown = {
        name: entry["weights"] for name, entry in json.loads(capsys.readouterr().out)["networks"].items()
    }
    assert shown["resmasking"] == "the authors' file, downloaded on first use"
    assert "not known to exist" in shown["resnet18"]
    assert "7 files" in shown["resmasking-ensemble"]
    assert "--weights FILE" in shown["feratt"]


def test_a_file_is_fetched_once_and_recorded(mirror: Server, cache: Path) -> None:
    found = find()
    assert found.path == cache / NAME == weights_folder() / NAME
    assert found.sha256 == SHA256
    assert found.provenance["address"] == mirror.address + PATH
    record = json.loads((cache / f"{NAME}.json").read_text())
    assert record.pop("date") > "2026"
    assert record == {"sha256": SHA256, "size_bytes": len(CONTENT), "address": mirror.address + PATH}
    assert find() == find(sha256=SHA256.upper()) == find(NAME) == found
    assert [path for path, _ in mirror.seen] == [PATH]
    assert cached_weights(SHA256) == found.path
    assert cached_weights("0" * 64) is None


def test_a_file_put_there_by_hand_needs_no_network(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT)
    assert find().provenance["address"] == "put into the cache by hand"
    assert json.loads((cache / f"{NAME}.json").read_text())["sha256"] == SHA256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(CONTENT[::-1]), "has changed .*. Fix: delete {path}"),
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, expected at least 30843428. Fix: delete it"),
        (lambda path: path.with_name(f"{NAME}.json").write_text("{}"), "does not hold the sha256 of {name}. Fix: delete"),
        (lambda path: path.with_name(f"{NAME}.json").write_text("[" * 60_000), "does not hold the sha256"),
    ],
)  # fmt: skip
def test_a_cached_file_that_changed_is_an_error(mirror: Server, cache: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    find()
    change(cache / NAME)
    with pytest.raises(WeightsError, match=message.format(path=cache / NAME, name=NAME)):
        find()
    assert cached_weights(SHA256) is None or (cache / NAME).read_bytes() == CONTENT


def test_a_required_sha256_is_required_at_once(mirror: Server, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"the sha256 is {SHA256}, {'0' * 64} is required"):
        find(sha256="0" * 64)
    assert not (cache / NAME).exists()
    find()
    with pytest.raises(WeightsError, match=f"{cache / NAME} has the sha256 {SHA256}, expected 0000"):
        find(sha256="0" * 64)
    mine = tmp_path / "mine.npz"
    np.savez(mine, weights=np.zeros(3))
    assert find(str(mine), sha256_of(mine)).sha256 == sha256_of(mine)
    for weights, network in ((str(mine), NETWORK), ("auto", "conv-attention")):
        with pytest.raises(WeightsError, match="has the sha256 .*, expected 0000"):
            find(weights, "0" * 64, network)


@pytest.mark.parametrize(
    "behaviour", [Behaviour(status=404), Behaviour(status=429), Behaviour(body=b"<html>")]
)
def test_what_cannot_be_fetched_names_every_way_out(
    mirror: Server, cache: Path, behaviour: Behaviour
) -> None:
    mirror.always = behaviour
    with pytest.raises(DownloadError) as error:
        find()
    for text in (
        mirror.address + PATH,
        "not known to be published there",
        str(cache / NAME),
        "--weights FILE",
    ):
        assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_offline_names_both_addresses(cache: Path) -> None:
    (file,) = PUBLISHED["resmasking"]
    with pytest.raises(DownloadError, match="FER_EDGE_OFFLINE forbids network access") as error:
        find(network="resmasking")
    for text in (*file.addresses, str(cache / file.name), "--weights FILE"):
        assert text in str(error.value)
    assert not cache.exists()


def test_the_second_host_is_asked_where_the_first_fails(
    mirror: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = (f"{mirror.address}/missing", mirror.address + PATH)
    monkeypatch.setattr("fer_edge.weights.cache._addresses", lambda file: addresses)
    assert find().provenance["address"] == addresses[1]
    assert [path for path, _ in mirror.seen] == ["/missing", PATH]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FER_EDGE_OFFLINE", "maybe", "FER_EDGE_OFFLINE must be 1 or 0, found 'maybe'"),
        ("FER_EDGE_WEIGHTS_MIRROR", "ftp://host", "FER_EDGE_WEIGHTS_MIRROR: expected an address .*Fix: give an address such as https"),
        ("FER_EDGE_WEIGHTS_MIRROR", "http://me:secret@host", "found 'one with a user name'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_read(
    mirror: Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        find()


def test_a_cache_that_cannot_be_written(mirror: Server, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="cannot be read or written .*FER_EDGE_CACHE"):
        find()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a folder that nobody may write to")
def test_a_read_only_cache(mirror: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(DownloadError, match="FER_EDGE_CACHE"):
        find()


@pytest.mark.parametrize(
    ("network", "weights", "error", "message"),
    [
        ("resmaskin", "auto", UsageError, "did you mean 'resmasking'"),
        ("feratt", "auto", WeightsError, "no trained weights of feratt ship.*--weights FILE .*--weights random"),
        ("emotionaldan", "auto", WeightsError, "no trained weights of emotionaldan ship"),
        ("resmasking", "Z_resmasking_dropout1_rot30_2019Nov30_13.23", WeightsError, "does not exist.*did you mean"),
        ("resmasking", NAME, UsageError, f"are weights of {NETWORK}, .* Fix: give --model {NETWORK}"),
        ("resmasking", "conv-attention", UsageError, "are weights of conv-attention"),
    ],
)  # fmt: skip
def test_typos_are_noticed_before_anything_else(
    cache: Path, network: str, weights: str, error: type[FerEdgeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        request_weights(network, weights)
    with pytest.raises(error, match=message):
        main_error(network, weights)


def main_error(network: str, weights: str) -> None:
    from fer_edge.builder import BuildOptions, build

    build(BuildOptions(network, weights))


def test_a_missing_extra_is_noticed_before_the_download(
    mirror: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["build", "--model", NETWORK, "--backend", "onnxruntime"]) == 1
    assert "pip install 'torch>=2.8'" in capsys.readouterr().err
    assert main(["export", "--model", NETWORK, "--output", str(tmp_path / "m.onnx")]) == 1
    assert mirror.seen == []


def test_an_ensemble_gathers_its_members(
    mirror: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_edge.weights.cache._BYTES_PER_PARAMETER", 0)
    files = PUBLISHED["resmasking-ensemble"]
    mirror.files = {file.mirror_path: file.name.encode() for file in files[1:]}
    with pytest.raises(DownloadError, match=r"resnet18_rot30_2019Nov05_17.44.*they have lost it"):
        find(network="resmasking-ensemble")
    mirror.files[files[0].mirror_path] = b"found again"
    found = find(network="resmasking-ensemble")
    assert found.path == cache / "resmasking-ensemble"
    assert {path.name for path in found.path.iterdir()} == {file.name for file in files}
    whole = combined_sha256({path.name: sha256_of(path) for path in found.path.iterdir()})
    assert cached_weights(whole) == found.path
    assert find(network="resmasking-ensemble") == found
