"""TensorFlow checkpoints: files that TensorFlow itself wrote, and files that are damaged or hostile.

``saver_files/make.py`` wrote the files with TensorFlow; here it only provides the expected values.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("google_crc32c", reason="needs pip install 'fer-edge[tensorflow]'")

from author_files import entry, masked_crc, varint, write_checkpoint, write_table

from fer_edge._utils.file_kinds import tensorflow_prefix
from fer_edge.errors import MissingExtraError, WeightsError
from fer_edge.export.checkpoints import tensorflow_bundle
from fer_edge.export.checkpoints.tensorflow_bundle import TensorFlowCheckpoint

FOLDER = Path(__file__).parent / "saver_files"
SHAPES = [(), (3,), (2, 3), (3, 3, 1, 2), (0, 4), (5, 1)]
DTYPES = [np.float32, np.float32, np.float64, np.int32]
HEADER = {b"": b"\x08\x01"}


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    for file in FOLDER.iterdir():
        if file.suffix != ".py" and file.is_file():
            shutil.copy(file, tmp_path)
    return tmp_path


def refuse(prefix: Path, match: str, name: str | None = None) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        TensorFlowCheckpoint(prefix)[name or "Stage1/layer_2/kernel"]
    assert "\n" not in str(caught.value)
    assert str(prefix.parent) in str(caught.value)


@pytest.mark.parametrize(("name", "files"), [("single", 2), ("sharded", 3)])
def test_values_that_tensorflow_wrote(name: str, files: int) -> None:
    checkpoint = TensorFlowCheckpoint(FOLDER / name)
    assert set(checkpoint) == {f"Stage{1 + i % 2}/layer_{i}/kernel" for i in range(48)}
    assert len(checkpoint) == 48
    assert len(checkpoint.files) == files
    for i in range(48):
        shape, dtype = SHAPES[i % 6], DTYPES[i % 4]
        found = checkpoint[f"Stage{1 + i % 2}/layer_{i}/kernel"]
        assert found.dtype == dtype
        assert found.shape == shape
        np.testing.assert_array_equal(found.ravel(), 100 * i + np.arange(found.size))


def test_the_script_that_wrote_the_files_says_the_same() -> None:
    tree = ast.parse((FOLDER / "make.py").read_text())
    constants = {
        node.targets[0].id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(constants["SHAPES"]) == SHAPES
    assert constants["DTYPES"] == "[np.float32, np.float32, np.float64, np.int32]"


def test_constants_of_the_graph() -> None:
    found = TensorFlowCheckpoint(FOLDER / "graph").constants((1, 136))
    assert list(found) == ["Const_2"]
    np.testing.assert_array_equal(found["Const_2"], np.arange(136)[None] / 4)
    (small,) = TensorFlowCheckpoint(FOLDER / "graph").constants((1, 2)).values()
    assert small.tolist() == [[1, 2]]
    assert TensorFlowCheckpoint(FOLDER / "graph").constants((2, 1)) == {}
    assert TensorFlowCheckpoint(FOLDER / "single").constants((1, 136)) == {}
    assert [path.suffix for path in TensorFlowCheckpoint(FOLDER / "graph").files][::2] == [".index", ".meta"]


def test_any_file_of_a_checkpoint_leads_to_its_prefix(tmp_path: Path) -> None:
    for suffix in ("", ".index", ".meta", ".data-00000-of-00001"):
        assert tensorflow_prefix(FOLDER / f"graph{suffix}") == FOLDER / "graph"
    assert tensorflow_prefix(FOLDER / "grap") is None
    assert tensorflow_prefix(FOLDER / "make.py") is None
    assert tensorflow_prefix(tmp_path / "absent" / "x") is None
    (tmp_path / "Model2").write_bytes(b"a file of this name")
    (tmp_path / "Model2.index").touch()
    assert tensorflow_prefix(tmp_path / "Model2") is None


def test_the_writer_of_these_tests_is_read_too(tmp_path: Path) -> None:
    variables = {"b/kernel": np.arange(6, dtype="<f4").reshape(2, 3), "a": np.array(3, "<i4")}
    write_checkpoint(tmp_path / "m", variables)
    checkpoint = TensorFlowCheckpoint(tmp_path / "m")
    for name, value in variables.items():
        np.testing.assert_array_equal(checkpoint[name], value)


def test_missing_parts_are_named(copies: Path) -> None:
    (copies / "sharded.data-00001-of-00002").unlink()
    with pytest.raises(
        WeightsError, match=r"sharded.data-00001-of-00002 is missing: .* Fix: put these files into one folder"
    ):
        _ = TensorFlowCheckpoint(copies / "sharded").files
    (copies / "single.index").unlink()
    refuse(copies / "single", "single.index is missing")


@pytest.mark.parametrize("kept", [0, 10, 47, 48, 500, -1])
def test_cut_index(copies: Path, kept: int) -> None:
    path = copies / "single.index"
    path.write_bytes(path.read_bytes()[:kept])
    refuse(copies / "single", "is not a complete index of a TensorFlow checkpoint")


def test_cut_and_damaged_shards(copies: Path) -> None:
    path = copies / "single.data-00000-of-00001"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    last = "Stage2/layer_9/kernel"
    refuse(
        copies / "single",
        r"has 1167 bytes, but Stage2/layer_9/kernel needs bytes .* Fix: fetch the truncated file again",
        last,
    )
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refuse(copies / "single", "is damaged: the checksum of Stage2/layer_9/kernel differs", last)


def test_a_flipped_bit_of_the_index_is_noticed_or_changes_nothing(copies: Path) -> None:
    path = copies / "single.index"
    data = path.read_bytes()
    whole = {name: value.tobytes() for name, value in TensorFlowCheckpoint(FOLDER / "single").items()}
    noticed = 0
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        try:
            found = TensorFlowCheckpoint(copies / "single")
            values = {name: value.tobytes() for name, value in found.items()}
        except WeightsError:
            noticed += 1
        else:  # padding, or the unread filter block
            assert values == whole
    assert noticed > 200


def one(tmp_path: Path, **changes: int | tuple[int, ...]) -> Path:
    """Write a variable ``v`` whose entry has the fields ``changes``; checksums are right."""
    data = np.arange(4, dtype="<f4").tobytes()
    fields = {"dtype": 1, "shape": (4,), "offset": 0, "size": 16, "crc": masked_crc(data)} | changes
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    write_table(tmp_path / "m.index", HEADER | {b"v": entry(**fields)})  # type: ignore[arg-type]
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": (5,)}, r"v declares 16 bytes, which do not fit \(5,\) float32"),
        ({"shape": (1 << 40, 1 << 40)}, "which do not fit"),
        ({"shape": ((1 << 64) - 1, 4)}, "which do not fit"),
        ({"shape": (1 << 40,), "size": 1 << 42}, "has 16 bytes, but v needs bytes 0 to 4398046511104"),
        ({"offset": 1}, "has 16 bytes, but v needs bytes 1 to 17"),
        ({"dtype": 7}, "v has TensorFlow type 7, expected plain numbers"),
        ({"shard": 3}, "m.data-00003-of-00001 is missing"),
        ({"crc": 0}, "the checksum of v differs"),
    ],
)
def test_entries_that_do_not_agree_with_the_data(
    tmp_path: Path, changes: dict[str, int | tuple[int, ...]], match: str
) -> None:
    refuse(one(tmp_path, **changes), match, "v")


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({b"v": b""}, "no header with the number of shards"),
        ({b"": b"\x08\x00"}, "no header"),
        ({b"": b"\x08" + varint(1 << 60)}, "no header"),
        ({b"": b"\x08\x01\x10\x01"}, "is big-endian"),
        (HEADER | {b"v": b"\x0a\x02ab"}, "is not a checkpoint entry"),
        (HEADER | {b"v": b"\xff\xff"}, "is damaged"),
        (HEADER | {b"v": b"\x10\x03"}, "expected a nested message"),
        (HEADER | {b"\xff\xfe": entry(1, (1,), 0, 4, 0)}, "a name is not text"),
        (HEADER | {b"v": entry(1, (1,), 0, 4, 0) + b"\x3a\x00"}, "type 1 in slices"),
    ],
)
def test_tables_that_are_no_checkpoint(tmp_path: Path, table: dict[bytes, bytes], match: str) -> None:
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16))
    write_table(tmp_path / "m.index", table)
    refuse(tmp_path / "m", match, "v")


def test_compressed_and_inconsistent_blocks(tmp_path: Path) -> None:
    write_table(tmp_path / "m.index", HEADER, compression=1)
    refuse(tmp_path / "m", "is compressed, which TensorFlow's saver does not do")
    body = b"\x05\x01\x00a" + struct.pack("<II", 0, 1) + b"\0"  # shares 5 bytes with nothing
    content = body + struct.pack("<I", masked_crc(body))
    footer = (b"\0\0" + varint(0) + varint(len(body) - 1)).ljust(40, b"\0")
    (tmp_path / "m.index").write_bytes(content + footer + struct.pack("<Q", 0xDB4775248B80FB57))
    refuse(tmp_path / "m", "m.index is damaged. Fix: fetch it again")


def test_graphs_that_are_damaged_or_huge(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copies / "graph.meta"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="graph.meta is damaged"):
        TensorFlowCheckpoint(copies / "graph").constants((1, 136))
    monkeypatch.setattr(tensorflow_bundle, "_MAX_GRAPH_BYTES", 1 << 20)
    with path.open("r+b") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(WeightsError, match="graph.meta is larger than 1 MiB"):
        TensorFlowCheckpoint(copies / "graph").constants((1, 136))


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install 'protobuf>=4.25' 'google-crc32c>=1.5'"):
        TensorFlowCheckpoint(FOLDER / "single")


def grown_keys(count: int, step: int) -> bytes:
    """Return a block whose every key is the one before and ``step`` bytes more."""
    rows = b"".join(varint(i * step) + varint(step) + varint(1) + b"k" * step + b"v" for i in range(count))
    return rows + struct.pack("<II", 0, 1) + b"\0"


def repeated_block(path: Path, block: bytes, times: int) -> None:
    """Write a table whose index names one data block many times."""
    handle = varint(0) + varint(len(block) - 1)
    rows = b"".join(
        varint(0) + varint(2) + varint(len(handle)) + struct.pack(">H", i) + handle for i in range(times)
    )
    index = rows + struct.pack("<II", 0, 1) + b"\0"
    sealed = [part + struct.pack("<I", masked_crc(part)) for part in (block, index)]
    footer = varint(0) + varint(0) + varint(len(sealed[0])) + varint(len(index) - 1)
    path.write_bytes(b"".join(sealed) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


@pytest.mark.parametrize(
    ("count", "step", "times", "match"),
    [
        (20_000, 4, 1, "a name or an entry of more than 4096 bytes"),
        (1000, 4, 20, "m.index is damaged: its blocks overlap"),
        (4000, 1, 3, "m.index is damaged: its blocks overlap"),
    ],
)
def test_an_index_that_grows_when_it_is_read(
    tmp_path: Path, count: int, step: int, times: int, match: str
) -> None:
    repeated_block(tmp_path / "m.index", grown_keys(count, step), times)
    refuse(tmp_path / "m", match)


def test_names_are_limited_in_number_and_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated_block(tmp_path / "m.index", grown_keys(1000, 4), 1)
    for name in ("_MAX_KEYS", "_MAX_ALL_KEYS_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(tensorflow_bundle, name, 900)
            refuse(tmp_path / "m", "has more than .* names or")


@pytest.mark.parametrize(
    "shape",
    [b"\x12\x03\x0a\x01x", b"\x12\x02\x08\x01" * 17, b"\x12\x02\x0a\x00"],
    ids=["text", "many", "empty"],
)
def test_odd_dimensions(tmp_path: Path, shape: bytes) -> None:
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16))
    row = b"\x08\x01\x12" + varint(len(shape)) + shape
    write_table(tmp_path / "m.index", HEADER | {b"v": row})
    refuse(tmp_path / "m", "invalid dimensions|do not fit", "v")


def test_graphs_of_too_many_fields(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = TensorFlowCheckpoint(FOLDER / "graph")
    monkeypatch.setattr(tensorflow_bundle, "_MAX_FIELDS", 20)
    with pytest.raises(WeightsError, match="has more than 20 fields"):
        checkpoint.constants((1, 136))
