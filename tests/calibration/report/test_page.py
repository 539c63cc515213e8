"""The report page shows its input, escapes names, and fits in a browser window."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import escape, unescape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError

from fer_edge.calibration.comparison.compare import Comparison
from fer_edge.calibration.comparison.fidelity import measure_fidelity
from fer_edge.calibration.comparison.paired import compare_paired
from fer_edge.calibration.comparison.timing import LatencyComparison
from fer_edge.calibration.report.page import NUMBER_FILTERS, write_report_page
from fer_edge.evaluation.metrics import compute_metrics
from fer_edge.evaluation.temperature import measure_temperature
from fer_edge.labels import FERPLUS
from fer_edge.probabilities import softmax
from fer_edge.results import LatencySummary
from fer_edge.system.provenance import measurement_record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</title><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&\u202eevil\x00"


def comparison(
    class_names: tuple[str, ...] = FERPLUS, interval: tuple[float, float] = (3.88, 4.01)
) -> dict[str, Any]:
    """A comparison of random logits by the package; INT8 degrades class 2."""
    rng = np.random.default_rng(0)
    classes = len(class_names)
    targets = rng.integers(0, classes, 700)
    fp32 = 3 * np.eye(classes)[targets] + rng.normal(0, 1.6, (700, classes))
    int8 = fp32 + rng.normal(0, 0.08, fp32.shape)
    int8[targets == 2, 0] += 1.0
    pair = [compute_metrics(softmax(v), targets, class_names) for v in (fp32, int8)]
    fidelity = measure_fidelity(fp32, int8)
    return Comparison(
        backend="onnxruntime",
        faces=700,
        **fidelity.to_dict(),
        fp32_bytes=6_102_227,
        int8_bytes=1_618_797,
        fp32_peak_bytes=82_907_136,
        int8_peak_bytes=None,
        latency=LatencyComparison(
            LatencySummary(30, 7.21, 9.1, 11.74), LatencySummary(30, 1.83, 2.6, 6.04), 3.94, *interval, 0.05
        ),
        fp32_metrics=pair[0],
        int8_metrics=pair[1],
        paired=compare_paired(fp32.argmax(1), int8.argmax(1), targets, class_names),
        fp32_temperature=measure_temperature(fp32, targets),
        temperature=measure_temperature(int8, targets),
    ).to_dict()


def full_report(name: str = "", class_names: tuple[str, ...] = FERPLUS) -> dict[str, Any]:
    """A report with every section, as of a residual network; ``name`` is part of every name."""
    rng = np.random.default_rng(1)
    layers = [
        {
            "layer": f"{name}features.layer{i // 9 + 1}.{i % 9}.residual_block.attention.conv{i % 2 + 1}/Conv",
            "op": f"Conv{name}",
            "macs": int(10 ** rng.uniform(5.5, 8.2)),
            "snr_db": None if i == 40 else round(float(rng.normal(38, 7)), 3),
            "drop_pp": round(float(rng.exponential(0.2)), 3) if i % 3 else None,
            "precision": "float" if i in (3, 17) else "int8",
        }
        for i in range(54)
    ]
    chosen = {
        "name": f"mse, bias correction{name}",
        "snr_db": 35.87,
        "agreement": 0.9917,
        "logit_cosine": 0.99984,
    }
    report = {
        "model": {
            "network": f"resmasking{name}",
            "precision": "int8",
            "weights": f"checkpoint.pth{name}",
            "licence": f"MIT{name}",
            "data": f"FER2013 PublicTest, 700 faces{name}",
        },
        "record": {**measurement_record(), "device": f"Jetson{name}"},
        "gate": {
            "passed": False,
            "bounds": [
                {"name": f"drop of accuracy, pp{name}", "bound": 0.5, "measured": 1.284, "passed": False},
                {"name": "agreement, at least", "bound": 0.97, "measured": 0.9917, "passed": True},
            ],
            "holds_for": {
                "processor": f"Xeon{name}",
                "processor_features": ["avx2", "avx512_vnni"],
                "backend": f"openvino{name}",
                "faces": f"12 faces of mine and 4 generated images{name}",
            },
        },
        "data": {
            "calibrating": {"data": f"mine{name}", "faces": 340, "distinct": 340, "generated": 0, "completed": False},
            "comparing": {"data": f"12 of mine{name}", "faces": 16, "distinct": 15, "generated": 4, "completed": True},
            "pictures": {
                f"mine{name}": {
                    "read": 431, "photographs": True, "no_face": 11, "flat": 2, "repeated": 37, "in_comparison": 5,
                },
            },
            "overlap": 0,
        },
        "warnings": [f"no face is found in 11 of 431 pictures of mine{name}"],
        "next_steps": [{"command": f"fer-edge build --fp32 {name}", "purpose": "stay in floating point"}],
        "comparison": comparison(tuple(f"{c}{name}" for c in class_names)),
        "candidates": [
            {"name": "minmax", "snr_db": None, "agreement": 0.981, "logit_cosine": 0.9991, "chosen": False},
            {"name": "entropy", "snr_db": -1.25, "agreement": 0.402, "logit_cosine": 0.61, "chosen": False},
            {**chosen, "chosen": True},
        ],
        "sensitivity": layers,
        "mixed_precision": {
            "bound": f"drop of accuracy at most 0.5 pp{name}",
            "float_layers": [layer["layer"] for layer in layers if layer["precision"] == "float"],
            "steps": [
                {"float_layers": n, "drop_pp": d, "logit_cosine": c}
                for n, d, c in ((0, 1.284, 0.9971), (1, 0.71, 0.9985), (2, 0.43, 0.9993))
            ],
            "int8_p50_ms": 58.41,
            "mixed_p50_ms": 63.72,
        },
        "placement": [
            {"rule": f"softmax{name}", "reason": f"its values are below one step{name}", "layers": [f"mask/Softmax{name}"]},
            {"rule": "normalisation", "reason": "nothing to gain", "layers": []},
        ],
        "calibration": {
            "method": f"mse{name}",
            "images": 512,
            "data": {"name": f"FER+ Training{name}", "fingerprint": "a3" * 32},
            "bias_correction": True,
            "percentile": 99.99,
        },
    }  # fmt: skip
    return json.loads(json.dumps(report, allow_nan=False))


class Page(HTMLParser):
    """Parser of the elements of a page, its texts with their positions, and unclosed elements."""

    VOID = ("meta",)

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[list[tuple[str, dict[str, str | None]]], str]] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert not self._open, "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((list(self._open), data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(text for _, text in self.texts)


def test_the_page_says_on_what_the_figures_hold(tmp_path: Path) -> None:
    report = full_report()
    text = Page(render(report, tmp_path)).text()
    place = (
        "Checked on Xeon (avx2, avx512_vnni), backend openvino, with 12 faces of mine and 4 generated images."
    )
    assert place in text
    for value in ("340", "431", "37", "no face is found in 11 of 431", "fer-edge build --fp32"):
        assert value in text
    assert "photographs, the largest face of each" in text
    report["gate"]["reason"] = "INT8 has collapsed"
    report["data"]["overlap"] = None
    text = Page(render(report, tmp_path)).text()
    assert "✕ Refused" in text
    assert "INT8 has collapsed." in text
    assert "unknown" in text
    for key in ("data", "warnings", "next_steps"):
        del report[key]
    report["warnings"] = []
    assert "Warnings" not in Page(render(report, tmp_path)).text()


def render(report: dict[str, Any], folder: Path) -> str:
    path = folder / "report.html"
    write_report_page(path, report)
    assert [p.name for p in folder.iterdir()] == ["report.html"]
    page = path.read_text(encoding="utf-8")
    path.unlink()
    return page


def leaves(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list):
        yield len(value)
        for part in value:
            yield from leaves(part)
    else:
        yield value


def test_every_number_is_one_of_the_report_and_reads_as_it_is(tmp_path: Path) -> None:
    report = full_report()
    page = Page(render(report, tmp_path))
    known = {float(v) for v in leaves(report) if isinstance(v, (int, float))}
    known |= {-v for v in known}  # a drop of accuracy is shown as its change
    shown = 0
    for above, text in page.texts:
        tag, attributes = above[-1]
        exact = attributes.get("value" if tag == "data" else "data-value")
        if exact is None:
            continue
        shown += 1
        assert float(exact) in known, text
        match = re.fullmatch(r"([−+]?[\d,.]+)(?:\u00a0(%|pp|ms|MB|dB|M))?", text)
        assert match, text
        scale = {"%": 100, "MB": 1e-6, "M": 1e-6}.get(match[2], 1)
        number = float(match[1].replace("−", "-").replace(",", ""))
        digits = len(match[1].partition(".")[2])
        assert number == pytest.approx(scale * float(exact), abs=0.501 * 10**-digits, rel=1e-3), text
    assert shown > 400


def test_no_other_text_states_a_figure(tmp_path: Path) -> None:
    """Digits occur only in the report's own names, in explanations and at axes."""
    report = full_report()
    page = Page(render(report, tmp_path))
    names = [str(v) for v in leaves(report) if isinstance(v, str)]
    fixed = ("FP32", "INT8", "F1", "p50", "p90", "p99", "95 %")
    for above, text in page.texts:
        tag, attributes = above[-1]
        classes = {name for _, a in above for name in (a.get("class") or "").split()}
        tags = {name for name, _ in above}
        if tag in ("style", "title", "desc", "data") or "data-value" in attributes:
            continue
        if classes & {"note", "tick"} or "figcaption" in tags or any(name in text for name in names):
            continue
        rest = text
        for word in (*fixed, *report["record"]["versions"], *report["record"]["versions"].values()):
            rest = rest.replace(word, "")
        shortened = "…" in rest and any(
            n.startswith(text.split("…")[0]) and n.endswith(text.split("…")[1]) for n in names
        )
        assert shortened or not re.search(r"\d", rest), text


def rows_of(page: str, caption: str) -> list[list[str]]:
    """Return the texts of a table's cells, row by row."""
    table = page[page.index(f"<caption>{caption}</caption>") :].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr>.*?</tr>", table)]
    return [[unescape(re.sub("<[^>]+>", "", cell)).replace("\u00a0", " ") for cell in row] for row in rows]


def test_every_figure_stands_under_its_name(tmp_path: Path) -> None:
    report = full_report()
    page = render(report, tmp_path)
    assert rows_of(page, "Requested bounds")[1:] == [
        ["drop of accuracy, pp", "0.5", "1.284", "✕ missed"],
        ["agreement, at least", "0.97", "0.9917", "✓ held"],
    ]
    assert rows_of(page, "Faces by purpose")[-1] == ["compare FP32 with INT8", "12 of mine", "15", "4"]
    assert rows_of(page, "Pictures that were read")[1][:6] == ["mine", "431", "11", "2", "37", "5"]
    assert rows_of(page, "Candidates")[2:] == [
        ["entropy", "−1.2 dB", "40.20 %", "0.61000"],
        ["mse, bias correction ✓ chosen", "35.9 dB", "99.17 %", "0.99984"],
    ]
    assert rows_of(page, "Steps")[1:3] == [["0", "−1.28 pp", "0.99710"], ["1", "−0.71 pp", "0.99850"]]
    assert rows_of(page, "Latency, size and memory")[1::2] == [
        ["latency p50", "7.21 ms", "1.83 ms"],
        ["latency p99", "11.74 ms", "6.04 ms"],
        ["peak memory", "82.91 MB", "–"],
    ]
    layers = rows_of(page, "Every layer, the most harmful first")[1:]
    assert len(layers) == 54
    assert [row[3] for row in layers] == [
        "–" if layer["snr_db"] is None else f"{layer['snr_db']:.1f} dB"
        for layer in sorted(report["sensitivity"], key=lambda layer: layer["snr_db"] or math.inf)
    ]
    assert sum(row[5] == "floating point" for row in layers) == 2
    assert "The 20 most harmful layers are drawn; the table holds all." in page
    metrics = [report["comparison"][f"{name}_metrics"] for name in ("fp32", "int8")]
    assert rows_of(page, "On labelled faces")[2:] == [
        [name, *(f"{100 * m[key]:.2f} %" for m in metrics)]
        for name, key in (("balanced accuracy", "balanced_accuracy"), ("macro-F1", "macro_f1"))
    ]
    third = report["comparison"]["paired"]["classes"][2]
    assert rows_of(page, "Figures by class")[3][:4] == [
        third["name"], str(third["faces"]), f"{100 * third['fp32_f1']:.2f} %", f"{100 * third['int8_f1']:.2f} %"
    ]  # fmt: skip


def test_each_section_is_shown_only_where_its_key_is(tmp_path: Path) -> None:
    titles = {
        "gate": "Bounds", "comparison": "Accuracy", "candidates": "Calibration methods", "sensitivity": "Sensitive layers",
        "mixed_precision": "Mixed precision", "placement": "Floating point by rule", "calibration": "Calibration",
    }  # fmt: skip
    report = full_report()
    for key in titles:
        for part in (
            {key: report[key]},
            {k: v for k, v in report.items() if k != key},
            {**report, key: None},
        ):
            page = render(part, tmp_path)
            for other, title in titles.items():
                assert (f">{title}</h2>" in page) == (part.get(other) is not None), (key, other)
    assert "<h1>network</h1>" in render({}, tmp_path)


def test_the_verdict_is_that_of_the_gate(tmp_path: Path) -> None:
    report = full_report()
    missed = Page(render(report, tmp_path)).text()
    assert "✕ Missed" in missed
    assert re.search(r"drop of accuracy, pp\s*: measured\s+1.284\s*, requested\s+0.5", missed)
    assert "✓ Passed" not in missed
    report["gate"] = {"passed": True, "bounds": report["gate"]["bounds"][1:]}
    assert "✓ Passed" in Page(render(report, tmp_path)).text()
    assert "No bound was set" in Page(render({}, tmp_path)).text()


def test_what_is_beyond_noise_is_marked(tmp_path: Path) -> None:
    report = full_report()
    beyond = [c["name"] for c in report["comparison"]["paired"]["classes"] if c["beyond_noise"]]
    assert FERPLUS[2] in beyond
    page = render(report, tmp_path)
    marked = len(beyond) + report["comparison"]["paired"]["beyond_noise"]
    assert page.count('class="dot marked"') == marked
    assert page.count("<td>beyond noise</td>") == len(beyond)
    assert f"Beyond noise: {', '.join(beyond)}." in page


def test_an_interval_without_width_is_not_called_certain(tmp_path: Path) -> None:
    report = full_report()
    same = np.arange(80) % 8
    report["comparison"]["paired"] = compare_paired(same, same, same, FERPLUS).to_dict()
    text = Page(render(report, tmp_path)).text()
    assert "with 80 faces a change of up to about 3.8 percentage points can go undetected" in text


def test_without_labels_the_page_says_what_is_not_known(tmp_path: Path) -> None:
    report = full_report()
    for key in ("fp32_metrics", "int8_metrics", "paired", "fp32_temperature", "temperature", "snr_db"):
        report["comparison"][key] = None
    page = render(report, tmp_path)
    assert "The faces had no labels" in page
    assert "Confusions" not in page
    assert ">Speed, size and memory</h2>" in page


def test_a_number_that_is_not_finite_is_written_and_not_drawn(tmp_path: Path) -> None:
    report = full_report()
    report["comparison"]["speedup"] = math.inf
    report["candidates"][0]["snr_db"] = math.nan
    page = Page(render(report, tmp_path))
    assert {"inf", "nan\u00a0dB"} <= {text for _, text in page.texts}
    assert not [a for tag, a in page.elements if tag in ("rect", "circle", "line") and "nan" in a.values()]


@pytest.mark.parametrize(
    ("interval", "said"),
    [((3.88, 4.01), ""), ((0.91, 1.2), "no difference beyond noise"), ((0.4, 0.5), "it is slower")],
)
def test_the_ratio_of_latencies_has_its_interval(
    interval: tuple[float, float], said: str, tmp_path: Path
) -> None:
    page = " ".join(render(full_report() | {"comparison": comparison(interval=interval)}, tmp_path).split())
    text = re.sub(r"<[^>]+>", "", page)
    assert f"95 % interval of {interval[0]:.2f} to {interval[1]:.2f} from a paired bootstrap" in text
    phrases = ("no difference beyond noise", "it is slower")
    assert [words for words in phrases if f": {words}" in text] == ([said] if said else [])


def test_empty_lists_and_zeros_are_drawn(tmp_path: Path) -> None:
    report = full_report()
    report |= {"candidates": [], "sensitivity": [], "placement": [], "gate": {"passed": True, "bounds": []}}
    report["mixed_precision"] |= {"float_layers": [], "steps": [], "int8_p50_ms": None, "mixed_p50_ms": None}
    Page(render(report, tmp_path))
    report["mixed_precision"] |= {"steps": [{"float_layers": 0, "drop_pp": 0.0, "logit_cosine": 1.0}]}
    page = render(report, tmp_path)
    assert "NaN" not in page
    assert "nan" not in Page(page).text()


def test_the_page_is_self_contained_and_accessible(tmp_path: Path) -> None:
    text = render(full_report(), tmp_path)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    active = {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not {tag for tag, _ in page.elements} & active
    assert not [
        n for _, a in page.elements for n in a if n.startswith("on") or n in ("src", "href", "xlink:href")
    ]
    assert "url(" not in text
    assert "://" not in text
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    named = re.findall(r'<svg [^>]*role="img"[^>]*><title>[^<]+</title><desc>[^<]+</desc>', text)
    assert len(named) == text.count("<svg ") > 8
    assert text.count("<table>") == text.count("<table><caption>")
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    keys = [a["id"] for _, a in page.elements if "id" in a]
    assert len(keys) == len(set(keys))
    assert page.all("html") == [{"lang": "en"}]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    text = render(full_report(HOSTILE), tmp_path)
    page = Page(text)
    plain = Page(render(full_report(), tmp_path))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert len(page.all("svg")) == len(plain.all("svg"))
    assert not re.search(r"[\x00-\x08\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    shown = page.text().count("<img src=x onerror=alert(1)>")
    assert shown > 100
    assert "evil" in page.text()
    attributes = {name for _, a in page.elements for name in a}
    assert attributes == {name for _, a in plain.elements for name in a}


@pytest.mark.parametrize("name", ["\ud800", "a" * 5000, "…", "", "日本語 🙂", "]]>", "<!--"])
def test_odd_names_give_a_page(tmp_path: Path, name: str) -> None:
    Page(render(full_report(name), tmp_path))


def test_a_report_that_is_wrong_leaves_no_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("before")
    with pytest.raises(UndefinedError, match="'dict object' has no attribute 'bounds'"):
        write_report_page(tmp_path / "report.html", {"gate": {"passed": False}})
    assert (tmp_path / "report.html").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("percent", 0.70274, "70.27\u00a0%"),
        ("points", -0.004, "0.00\u00a0pp"),
        ("points", -0.126, "−0.13\u00a0pp"),
        ("points", 1.5, "+1.50\u00a0pp"),
        ("megabytes", 6_102_227, "6.10\u00a0MB"),
        ("integer", 10_000, "10,000"),
        ("decibels", None, "–"),
        ("four_digits", 0.99984, "0.9998"),
        ("four_digits", 0.0, "0"),
        ("milliseconds", math.inf, "inf\u00a0ms"),
    ],
)
def test_numbers_read_well(name: str, value: float | None, expected: str) -> None:
    assert NUMBER_FILTERS[name](value).text == expected


HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="result"></pre><script>
const measure = (frame) => {{
  const page = frame.contentDocument, root = page.documentElement;
  return {{
    width: root.clientWidth, scrollWidth: root.scrollWidth,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map((e) => e.name),
    scripts: page.querySelectorAll("script, img").length, title: page.title, text: page.body.innerText,
    wide: [...page.querySelectorAll("body *")].filter((e) => !e.closest(".scroll") && !e.closest("svg") &&
      e.getBoundingClientRect().right > root.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80)),
    cut: [...page.querySelectorAll("svg text")].filter((t) => {{
      const box = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
      return box.right > all.right + 1 || box.left < all.left - 1 || box.bottom > all.bottom + 1;
    }}).map((t) => t.textContent),
    boxes: [...page.querySelectorAll("svg")].map((s) => s.getBoundingClientRect().width),
  }};
}};
addEventListener("load", () => {{
  document.getElementById("result").textContent =
    JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
}});
</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return measurements by headless Chromium of several pages, each 390 pixels wide, and its console.

    Its window is at least 500 pixels wide, so each page is in a frame.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install --no-install-recommends chromium")
    real = render(full_report(), tmp_path_factory.mktemp("page"))
    slip = '<img src="/{0}.svg"><script>document.title = "ran"</script>'
    pages = {
        "real": real,
        "hostile": render(full_report(HOSTILE), tmp_path_factory.mktemp("page")),
        "long": render(full_report("a" * 300), tmp_path_factory.mktemp("page")),
        "refused": real.replace("<main>", "<main>" + slip.format("refused")),
        "careless": '<p style="width: 800px">wide</p>' + slip.format("careless"),
    }
    frames = "".join(
        f'<iframe style="border: 0; width: 390px; height: 844px" srcdoc="{escape(page)}"></iframe>'
        for page in pages.values()
    )
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(HARNESS.format(frames=frames).encode())

        def log_message(self, *_: object) -> None:
            """Suppress the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--window-size=390,844", "--hide-scrollbars", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--dump-dom",
            f"http://127.0.0.1:{server.server_port}/",
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        server.shutdown()
    assert result.returncode == 0, result.stderr[-2000:]
    found = re.search(r'<pre id="result">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stdout[-500:]
    measured = zip(pages, json.loads(unescape(found[1])), strict=True)
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return {**dict(measured), "console": console, "asked": asked}


@pytest.mark.parametrize("name", ["real", "hostile", "long"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser: dict[str, Any], name: str) -> None:
    page = browser[name]
    assert page["width"] == 390
    assert page["scrollWidth"] == 390
    assert page["wide"] == []
    assert page["cut"] == []
    assert len(page["boxes"]) > 8
    assert min(page["boxes"]) > 300


def test_the_browser_loads_nothing_and_has_nothing_to_complain_about(browser: dict[str, Any]) -> None:
    for name in ("real", "hostile", "long"):
        assert browser[name]["requests"] == []
        assert browser[name]["scripts"] == 0
        assert browser[name]["title"].startswith("resmasking")
    assert set(browser["asked"]) <= {"/", "/favicon.ico", "/careless.svg"}
    # Only the page with an injected script is reported.
    assert all("Content Security Policy" in line for line in browser["console"])


def test_the_page_is_read_in_the_browser(browser: dict[str, Any]) -> None:
    text = browser["real"]["text"]
    for expected in (
        "resmasking INT8", "✕ Missed", "drop of accuracy, pp", "Jetson", "Sensitive layers", "floating point",
        "6.10\u00a0MB", "surprise", "McNemar", "apparent expression", "63.72\u00a0ms",
    ):  # fmt: skip
        assert expected in text
    assert "<img src=x onerror=alert(1)>" in browser["hostile"]["text"]


def test_the_policy_refuses_what_slips_in(browser: dict[str, Any]) -> None:
    """The measurements can fail: an unsafe page overflows, loads and runs scripts; our page blocks the same."""
    careless, refused = browser["careless"], browser["refused"]
    assert careless["scrollWidth"] >= 800
    assert careless["wide"]
    assert [name.rsplit("/")[-1] for name in careless["requests"]] == ["careless.svg"]
    assert careless["title"] == "ran"
    assert "/careless.svg" in browser["asked"]
    assert "/refused.svg" not in browser["asked"]
    assert refused["title"] == "resmasking INT8: build report"
    assert [line for line in browser["console"] if "script" in line]
