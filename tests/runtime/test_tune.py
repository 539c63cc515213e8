"""``auto`` by measurement: on real bundles and backends, and with given timings for deterministic results."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fer_edge import Runtime, RuntimeOptions
from fer_edge.backends import available_backends
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.errors import UsageError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.runtime.choice import Candidate
from fer_edge.runtime.options import make_options
from fer_edge.runtime.timing import Timing
from fer_edge.runtime.tune import choose, make_choice, make_key, tune
from fer_edge.system.load import LoadMeter
from fer_edge.system.processors import Processors

SMALL = "visual-attention"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FER_EDGE_TUNE", "1")
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tune"


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The share of the processors that other processes take: none, although other tests may run."""
    share: list[float | None] = [0.0]
    monkeypatch.setattr(LoadMeter, "share_of_others", lambda self: share[0])
    return share


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(shipped_bundle(SMALL))


class Figures:
    """Simulated measurement: the last candidate takes 1 ms, every other 2 ms; counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, bundle: Bundle, candidates: Sequence[Candidate], on_progress: Callable[[int, int], None]
    ) -> list[Timing]:
        self.calls += 1
        times = [2.0] * (len(candidates) - 1) + [1.0]
        return [Timing(c, "measured", "", ms, 4 * ms, 9) for c, ms in zip(candidates, times, strict=True)]


def test_a_runtime_measures_once_and_answers_the_same(
    int8_bundle: Path, own_cache: Path, astronaut: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """The measured choice may compute in FP32, or on another backend; the label equals that of the plain choice."""
    found = []
    for changes in ({"tune": False}, {}, {}):
        with Runtime(int8_bundle, **changes) as runtime:
            (face,) = runtime(astronaut).faces
            assert face.label == "happiness"
            info = json.loads(json.dumps(runtime.info))
            found.append(info["choice"])
            assert (info["backend"], info["precision"]) == (runtime.backend.name, runtime.precision)
            assert info["choice"]["backend"] == info["backend"]
            assert info["self_test"]["mode"] == "passed"
    assert (found[0]["by"], found[0]["because"]) == ("plain", "tune=False")
    assert found[1] == found[2]
    assert found[1]["by"] == "measured"
    assert found[1]["precision"] in ("int8", "fp32")
    assert found[1]["face_ms"] <= found[1]["plain_face_ms"]
    assert caplog.text.count("measuring which") == 1
    (kept,) = own_cache.glob("*.json")
    assert json.loads(kept.read_text())["choice"] == found[1]


def test_every_candidate_is_measured_or_has_a_reason(bundle: Bundle) -> None:
    done: list[tuple[int, int]] = []
    tuning = tune(bundle, on_progress=lambda *progress: done.append(progress))
    total = len(tuning.timings)
    assert done == [(i, total) for i in range(total + 1)]
    assert {timing.candidate.backend for timing in tuning.timings} >= set(available_backends("cpu"))
    for timing in tuning.timings:
        assert (timing.face_ms is not None) == (timing.state == "measured")
        assert timing.reason or timing.state == "measured"
    assert tuning.choice.candidate in [t.candidate for t in tuning.timings if t.state == "measured"]


@pytest.mark.parametrize(("gain", "moves"), [(0.06, True), (0.04, False), (-0.5, False)])
def test_only_a_gain_above_five_per_cent_moves_the_choice(gain: float, moves: bool) -> None:
    plain, other = Candidate("openvino", "int8"), Candidate("onnxruntime", "fp32")
    best = 10 * (1 - gain)
    choice = make_choice(
        [
            Timing(plain, "measured", "", 10.0, 40.0, 9),
            Timing(Candidate("onnxruntime", "int8"), "dropped", "its first run", 0.1, None, 1),
            Timing(other, "measured", "", best, 4 * best, 9),
        ]
    )
    assert choice.candidate == (other if moves else plain)
    assert choice.by == "measured"
    assert choice.plain_face_ms == 10


def test_a_plain_choice_that_cannot_run_is_left() -> None:
    plain, other = Candidate("openvino", "int8"), Candidate("onnxruntime", "int8")
    lost = Timing(plain, "left out", "openvino does not compute INT8 exactly")
    choice = make_choice([lost, Timing(other, "measured", "", 5.0, 20.0, 9)])
    assert choice.candidate == other
    assert "could not be run: openvino does not compute INT8 exactly" in choice.because
    assert make_choice([lost, dataclasses.replace(lost, candidate=other)]).candidate == plain


def test_what_was_measured_is_kept_until_it_is_asked_again(bundle: Bundle) -> None:
    figures = Figures()
    first = tune(bundle, measure=figures)
    assert first.measured_now
    assert first.choice.candidate == first.timings[-1].candidate
    assert not tune(bundle, measure=figures).measured_now
    assert figures.calls == 1
    assert tune(bundle, measure=figures, again=True).measured_now
    assert figures.calls == 2
    assert choose(bundle, RuntimeOptions()) == first.choice
    assert choose(bundle, make_options(threads=1, tune=False)).because == "tune=False"


def test_what_a_busy_machine_disturbs_is_used_and_not_kept(
    bundle: Bundle, own_cache: Path, others: list[float | None], caplog: pytest.LogCaptureFixture
) -> None:
    others[0] = 0.4
    figures = Figures()
    found = tune(bundle, measure=figures)
    assert found.choice.candidate == found.timings[-1].candidate
    assert found.path is None
    assert "took 40 % of the processors" in found.disturbed_by
    assert "fer-edge tune --again when the machine is idle" in caplog.text
    assert not list(own_cache.glob("*.json"))
    assert choose(bundle, RuntimeOptions()) == found.choice  # known to this process
    assert figures.calls == 1
    kept = tune(bundle, measure=figures, again=True, keep=True)
    assert kept.path is not None
    assert kept.path.is_file()
    before = kept.path.read_bytes()
    assert tune(bundle, measure=figures, again=True).path is None
    assert kept.path.read_bytes() == before


@pytest.mark.parametrize(
    ("share", "spread", "kept"), [(None, 1.2, True), (None, 1.8, False), (None, None, True), (0.1, 1.8, True)]
)
def test_without_a_known_load_the_spread_decides(
    share: float | None, spread: float | None, kept: bool, bundle: Bundle, others: list[float | None]
) -> None:
    others[0] = share
    measure = Figures()

    def spread_out(*arguments: Any) -> list[Timing]:
        return [dataclasses.replace(timing, spread=spread) for timing in measure(*arguments)]

    found = tune(bundle, measure=spread_out)
    assert (found.path is not None) == kept
    assert ("1.8 times as long as the median" in found.disturbed_by) != kept


def test_threads_and_processes_measure_once(bundle: Bundle, own_cache: Path, tmp_path: Path) -> None:
    figures = Figures()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tune(bundle, measure=figures).choice, range(8)))
    assert figures.calls == 1
    assert len(set(found)) == 1
    (kept,) = own_cache.glob("*.json")
    kept.unlink()
    code = (
        "import sys, time\n"
        "from fer_edge import open_bundle\n"
        "from fer_edge.models.catalogue import shipped_bundle\n"
        "from fer_edge.runtime.timing import Timing\n"
        "from fer_edge.runtime.tune import tune\n"
        "def measure(bundle, candidates, on_progress):\n"
        "    open(sys.argv[1], 'a').write('measured\\n')\n"
        "    time.sleep(0.5)\n"
        "    return [Timing(c, 'measured', '', 1.0, 4.0, 9) for c in candidates]\n"
        f"bundle = open_bundle(shipped_bundle({SMALL!r}))\n"
        "print(tune(bundle, measure=measure, keep=True).choice)  # other tests load the machine\n"
    )
    log = tmp_path / "log"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(log)], stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert log.read_text() == "measured\n"


def test_a_damaged_file_is_measured_again(bundle: Bundle, own_cache: Path) -> None:
    """In another process, because this one has the choice in memory."""
    code = (
        "from fer_edge import open_bundle\n"
        "from fer_edge.models.catalogue import shipped_bundle\n"
        "from fer_edge.runtime.timing import Timing\n"
        "from fer_edge.runtime.tune import tune\n"
        "measure = lambda bundle, found, show: [Timing(c, 'measured', '', 1.0, 4.0, 9) for c in found]\n"
        f"print(tune(open_bundle(shipped_bundle({SMALL!r})), measure=measure).measured_now)\n"
    )

    def run() -> tuple[str, int]:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return result.stdout, result.stderr.count("is damaged and is repeated")

    tune(bundle, measure=Figures())
    assert run() == ("False\n", 0)
    (kept,) = own_cache.glob("*.json")
    kept.write_bytes(kept.read_bytes()[:-9])
    assert run() == ("True\n", 1)
    assert run() == ("False\n", 0)


def test_a_folder_that_cannot_be_written_is_told_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "file"))
    figures = Figures()
    for _ in range(2):
        assert tune(bundle, measure=figures).path is None
    assert figures.calls == 1
    assert caplog.text.count("cannot be saved and is repeated at each start") == 1


def test_another_bundle_processor_version_or_request_is_another_measurement(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, asked = Processors(4, 4, 4), RuntimeOptions()
    keys = [
        make_key(bundle, asked, here),
        make_key(open_bundle(shipped_bundle()), asked, here),
        make_key(bundle, asked, Processors(4, 4, 4, quota=2)),
        make_key(bundle, make_options(threads=1), here),
        make_key(bundle, make_options(max_batch=64), here),
    ]
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    keys.append(make_key(bundle, asked, here))
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)
    monkeypatch.undo()
    # Neither its place, nor what has nothing to do with speed.
    assert (
        make_key(Bundle(Path("/elsewhere"), bundle.manifest), RuntimeOptions(prior="uniform"), here)
        == keys[0]
    )


def test_the_switch_of_the_environment(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_EDGE_TUNE", "0")
    choice = choose(bundle, RuntimeOptions())
    assert (choice.by, choice.because, choice.max_batch) == ("plain", "FER_EDGE_TUNE=0", 64)
    monkeypatch.setenv("FER_EDGE_TUNE", "no")
    with pytest.raises(UsageError, match="FER_EDGE_TUNE must be 0 or 1, found 'no'"):
        choose(bundle, RuntimeOptions())
    asked = make_options(backend="onnxruntime", precision="fp32", threads=1, max_batch=1)
    assert choose(bundle, asked).by == "asked"
    monkeypatch.setenv("FER_EDGE_TUNE", "1")
    one = make_options(backend="onnxruntime", threads=1)
    assert choose(bundle, one).because == "there is only one candidate"


def test_a_choice_of_single_faces_classifies_all_faces(bundle: Bundle, astronaut: np.ndarray) -> None:
    """A frame with two faces has two results for any choice."""
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    options = make_options(backend=available_backends("cpu")[0], precision="fp32")
    tuning = tune(bundle, options, measure=Figures())
    with Runtime(bundle, options) as runtime:
        assert runtime.choice == tuning.choice
        assert len(runtime(pair).faces) == 2
    if tuning.choice.backend == "openvino":
        assert tuning.choice.max_batch == 1
