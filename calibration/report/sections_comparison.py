"""The sections of the page that come from :class:`fer_edge.calibration.comparison.compare.Comparison`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fer_edge.calibration.report import svg
from fer_edge.calibration.report.markup import (
    Html,
    Number,
    between,
    count,
    decibels,
    element,
    formatted,
    megabytes,
    milliseconds,
    note,
    percent,
    plain,
    plot,
    points,
    section,
    side_by_side,
    table,
)

_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")


def comparison_sections(comparison: Mapping[str, Any]) -> Iterator[Html]:
    """Yield accuracy, classes, confidence, logits, speed and size."""
    if comparison["paired"] is None:
        unknown = "The faces had no labels, so accuracy is not known. Give labelled faces (--eval-data) to learn it."
        yield section("Accuracy", note(unknown))
    else:
        pair = comparison["fp32_metrics"], comparison["int8_metrics"]
        yield _accuracy(comparison["paired"], *pair)
        yield _classes(comparison["paired"])
        yield _confusions(*pair)
        yield _confidence(comparison, *pair)
    yield _logits(comparison)
    yield _cost(comparison)


def tiles(comparison: Mapping[str, Any]) -> Html:
    """Return the figures at a glance."""
    shown: list[tuple[str, Number, tuple[object, ...]]] = []
    paired = comparison["paired"]
    if paired:
        interval = between(paired["low_pp"], paired["high_pp"])
        shown.append(("Accuracy, INT8 − FP32", points(paired["change_pp"]), ("95 % interval ", interval)))
    shown += [
        ("Same class as FP32", percent(comparison["agreement"]), ("of ", count(comparison["faces"]), " faces")),
        (
            "Latency p50, one face",
            milliseconds(comparison["int8_latency"]["p50_ms"]),
            ("FP32 ", milliseconds(comparison["fp32_latency"]["p50_ms"])),
        ),
        ("Size of the model", megabytes(comparison["int8_bytes"]), ("FP32 ", megabytes(comparison["fp32_bytes"]))),
    ]  # fmt: skip
    return element(
        "div",
        [
            element("div", element("span", name), element("strong", value), element("small", *rest))
            for name, value, rest in shown
        ],
        class_="tiles",
    )


def _accuracy(paired: Mapping[str, Any], fp32: Mapping[str, Any], int8: Mapping[str, Any]) -> Html:
    rows = [
        (name, *(percent(metrics[key]) for metrics in (fp32, int8)))
        for name, key in (
            ("accuracy", "accuracy"),
            ("balanced accuracy", "balanced_accuracy"),
            ("macro-F1", "macro_f1"),
        )
    ]
    figures = (
        table("On labelled faces", ("", "FP32", "INT8"), rows),
        note(
            count(fp32["count"]),
            " labelled faces. Balanced accuracy is the mean recall of the classes, macro-F1 the mean F1: both "
            "weigh rare classes like frequent ones.",
        ),
    )
    title = "Change of accuracy with INT8"
    interval = paired["low_pp"], paired["high_pp"]
    drawing = svg.intervals(
        title,
        "The change in percentage points, and its interval, around no change.",
        [svg.Span("accuracy", paired["change_pp"], *interval, paired["beyond_noise"])],
    )
    verdict = (
        ". The interval does not reach 0: the difference is more than the choice of these faces explains."
        if paired["beyond_noise"]
        else ". The interval holds 0: these faces show no difference beyond noise."
    )
    reading = (
        points(paired["change_pp"]), ", 95 % interval ", between(*interval), verdict,
        " It comes from ", count(paired["resamples"]), " paired resamples of the faces.",
    )  # fmt: skip
    change = plot(drawing, title, reading, _only_one(paired))
    return section("Accuracy", side_by_side(element("div", *figures), change))


def _only_one(paired: Mapping[str, Any]) -> tuple[object, ...]:
    only = paired["only_fp32_right"], paired["only_int8_right"]
    if not any(only):
        return (
            "Each face is right in both or wrong in both, so the interval has no width. That does not make the "
            f"difference zero elsewhere: with {paired['faces']} faces a change of up to about "
            f"{300 / paired['faces']:.1f} percentage points can go unseen.",
        )
    return (
        "Right in FP32 only: ", count(only[0]), " faces; right in INT8 only: ", count(only[1]),
        ". Two equally good networks split so unevenly with a probability of ", plain(paired["mcnemar_p"]),
        " (McNemar's exact test).",
    )  # fmt: skip


def _classes(paired: Mapping[str, Any]) -> Html:
    classes = paired["classes"]
    shares = svg.dumbbells(
        "F1 by class",
        "For each class the F1 of FP32 and of INT8.",
        [(c["name"], c["fp32_f1"], c["int8_f1"]) for c in classes],
    )
    changes = svg.intervals(
        "Change of F1 by class",
        "For each class the change of F1 in percentage points and its interval around no change.",
        [svg.Span(c["name"], c["change_pp"], c["low_pp"], c["high_pp"], c["beyond_noise"]) for c in classes],
    )
    beyond = [c["name"] for c in classes if c["beyond_noise"]]
    rows = [
        (
            c["name"], count(c["faces"]), percent(c["fp32_f1"]), percent(c["int8_f1"]), points(c["change_pp"]),
            between(c["low_pp"], c["high_pp"]), "beyond noise" if c["beyond_noise"] else "within noise",
        )
        for c in classes
    ]  # fmt: skip
    return section(
        "By class",
        side_by_side(
            plot(
                shares,
                "F1 by class",
                "F1 is the balance of how many faces of a class are found and how many named so are right. Short "
                "lines between ring and dot mean that INT8 changes little; the ring's place says how well the "
                "network knows the class at all.",
            ),
            plot(
                changes,
                "Change of F1 with INT8, and its noise",
                ("Beyond noise: ", ", ".join(beyond), ".") if beyond else "No class changes beyond noise.",
                "A whisker is the 95 % interval under the same resamples; one that does not reach 0 is filled and "
                "red. Of twenty classes without any change, about one would be marked by chance. Wide whiskers "
                "come from few faces.",
            ),
        ),
        table(
            "Figures by class", ("class", "faces", "FP32", "INT8", "change", "95 % interval", "verdict"), rows
        ),
    )  # fmt: skip


def _confusions(fp32: Mapping[str, Any], int8: Mapping[str, Any]) -> Html:
    drawn = [
        plot(
            svg.heat_map(
                f"Confusion matrix, {name}", "Rows are the labels, columns what the network says; counts of faces.",
                metrics["class_names"], metrics["confusion"],
            ),
            f"Confusions in {name}",
        )
        for name, metrics in (("FP32", fp32), ("INT8", int8))
    ]  # fmt: skip
    return section(
        "Confusions",
        side_by_side(*drawn),
        note(
            "A row holds the faces with one label, a column those to which the network gives that class; the "
            "ground is as strong as the share of the row. Right answers lie on the diagonal. Look for cells that "
            "differ between the two: INT8 should repeat FP32's mistakes, not make its own."
        ),
    )


def _confidence(comparison: Mapping[str, Any], fp32: Mapping[str, Any], int8: Mapping[str, Any]) -> Html:
    fitted = [f for f in (comparison["fp32_temperature"], comparison["temperature"]) if f]
    rows: list[tuple[object, ...]] = [
        ("calibration error as it is", percent(fp32["ece"]), percent(int8["ece"]))
    ]
    if fitted:
        rows += [
            ("calibration error after temperature", *(percent(f["ece_after"]) for f in fitted)),
            ("temperature", *(formatted(f["value"], ".3f") for f in fitted)),
        ]
    figures = (
        table("Calibration error and temperature", ("", "FP32", "INT8"), rows),
        note(
            "Expected calibration error: how far confidence is from the share of right answers, on average. The "
            "temperature divides the logits so that they agree; its effect is measured on faces that it was not "
            "fitted on. Too few labelled faces give no temperature."
        ),
    )
    series = [
        (style, [(b["count"], b["confidence"], b["accuracy"]) for b in metrics["reliability"]])
        for style, metrics in (("ring reference", fp32), ("dot accent", int8))
    ]
    drawing = svg.reliability(
        "Reliability",
        "Share of right answers over confidence, for FP32 and INT8, without temperature.",
        series,
    )
    reading = (
        "Each point gathers faces of similar confidence; a larger one holds more of them. Below the dashed line "
        "the network claims more than it delivers, above it less. Small points are noise."
    )
    reliability = plot(drawing, "Reliability, before the temperature", reading)
    return section("Confidence", side_by_side(element("div", *figures), reliability))


def _logits(comparison: Mapping[str, Any]) -> Html:
    rows = [
        ("same class", percent(comparison["agreement"])),
        ("cosine of the logits, mean", formatted(comparison["logit_cosine"], ".5f")),
        ("signal-to-noise ratio of the logits", decibels(comparison["snr_db"])),
    ]
    return section(
        "Closeness to FP32",
        table("INT8 against FP32, without labels", ("", "INT8"), rows),
        note(
            count(comparison["faces"]),
            " faces on ", comparison["backend"], ". The noise is what INT8 adds to the logits: at 20 dB it is a "
            "tenth of their size, at 40 dB a hundredth. A dash means that there is none.",
        ),
    )  # fmt: skip


def _cost(comparison: Mapping[str, Any]) -> Html:
    latencies = {"FP32": comparison["fp32_latency"], "INT8": comparison["int8_latency"]}
    rows: list[tuple[object, ...]] = [
        (f"latency {key.removesuffix('_ms')}", *(milliseconds(times[key]) for times in latencies.values()))
        for key in _PERCENTILES
    ]
    rows += [
        (name, *(megabytes(comparison[f"{precision}_{key}"]) for precision in ("fp32", "int8")))
        for name, key in (("size of the model", "bytes"), ("peak memory", "peak_bytes"))
    ]
    bars = [
        svg.Bar(f"{key.removesuffix('_ms')} {name}", times[key], [milliseconds(times[key])], style)
        for key in _PERCENTILES
        for (name, times), style in zip(latencies.items(), ("reference", "accent"), strict=True)
    ]
    drawing = svg.bars("Latency", "Median and slow runs of FP32 and INT8, one face at a time.", bars)
    return section(
        "Speed, size and memory",
        side_by_side(
            plot(
                drawing,
                "Latency of one face",
                ("INT8 is ", formatted(comparison["speedup"], ".2f"), "× as fast as FP32 at the median. Runs of each, in turn, on ", comparison["backend"],
                 ": ", count(latencies["INT8"]["n"]), "."),
                "p50 is the usual run; p90 and p99 are slow ones, which a busy machine makes slower still.",
            ),
            table("What it costs", ("", "FP32", "INT8"), rows),
        ),
        note(
            "Peak memory is that of a whole process which loads the model and runs one face: Python and the "
            "backend's library are in both, so the difference is what the model changes."
        ),
    )  # fmt: skip
