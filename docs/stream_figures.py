"""Figures of detection, tracks, steady labels, quality and monochrome cameras, for the pages that ``generate.py`` writes."""

from __future__ import annotations

from typing import Any

from tables import origin_of, percent, read_record, table, unbroken


def detectors() -> str:
    """Return latency, memory and faces found of each detector."""
    record, recall = read_record("detectors"), read_record("detector_recall")
    one_face = {row["name"]: row for row in record["latency"]["rows"]}
    start = {row["name"]: row for row in record["start"]["rows"]}
    rows = []
    for found in recall["recall"]["rows"]:
        name = found["name"]
        if name not in start:
            continue
        taken = one_face[f"{name}: one face"]
        rows.append(
            (
                f"`{name}`",
                unbroken(
                    f"{taken['p50_ms']:.1f} / {taken['p90_ms']:.1f} / {taken['p99_ms']:.1f} ({taken['n']})"
                ),
                f"{taken['processor_p50_ms']:.1f}",
                f"{start[name]['p50_ms']:.0f}",
                f"{start[name]['peak_memory_mb']:.0f}",
                f"{found['with_a_face']} of {found['photographs']}",
                f"{found['false_boxes']} in {found['scenes']}",
            )
        )
    header = (
        "detector", "one face, ms", "processor time, ms", "start, ms", "memory, MB", "photographs with a face",
        "false boxes",
    )  # fmt: skip
    return f"{table(header, rows)}\n\n{origin_of(record['latency'], 'python benchmarks/detectors.py --photographs DIR')}"


def turned_faces() -> str:
    """Return the upright faces that are found when they are turned, and the accuracy of their labels."""
    part = read_record("detector_recall")["turned"]
    names = dict.fromkeys(row["name"] for row in part["rows"])
    rolls = sorted({abs(row["roll_deg"]) for row in part["rows"]})
    rows = []
    for name in names:
        cells = []
        for roll in rolls:
            both = [row for row in part["rows"] if row["name"] == name and abs(row["roll_deg"]) == roll]
            found, faces, labelled, right = (
                sum(row[key] for row in both) for key in ("found", "upright_faces", "labelled", "right")
            )
            cells.append(unbroken(f"{percent(found / faces)} / {percent(right / max(labelled, 1))}"))
        rows.append((f"`{name}`", *cells))
    header = ("detector", *(f"{roll}°" for roll in rolls))
    return f"{table(header, rows)}\n\n{origin_of(part, 'python benchmarks/detector_recall.py --photographs DIR')}"


def abstention() -> str:
    """Return wrong labels at each coverage by score, and the effect of the default limits on each kind of copy."""
    record = read_record("abstention")
    risk_rows = [
        (data, part, score, *(f"{100 * value:.1f}" for value in risks.values()))
        for data, found in record["data"].items()
        if "held out" not in data
        for part, by_score in found["risk"].items()
        for score, risks in by_score.items()
    ]
    first = next(iter(record["data"].values()))["risk"]["mixed"]["combined"]
    risks = table(("data", "copies", "score", *(f"{float(c):.0%}" for c in first)), risk_rows)
    rows = [
        (
            data,
            kind,
            one["faces"],
            *(
                "–" if one[key] is None else f"{100 * one[key]:.1f}"
                for key in ("error", "refused", "error_of_labelled")
            ),
        )
        for data, found in record["data"].items()
        if data.startswith(("FER+ PublicTest", "faces_in_context"))
        for kind, one in found["defaults"].items()
    ]
    header = ("data", "copies", "faces", "wrong, %", "refused, %", "wrong of the rest, %")
    origin = origin_of(record, "python benchmarks/abstention.py fer2013.csv.gz --photographs DIR --cache DIR")
    return (
        f"Wrong labels in %, among the faces with a label, by the share of faces that get one:\n\n{risks}\n\n"
        f"The default limits:\n\n{table(header, rows)}\n\n{origin}"
    )


def near_infrared() -> str:
    """Return right labels with each map to 8 bits."""
    record = read_record("near_infrared")
    rows = []
    for data, found in record["data"].items():
        by_condition: dict[tuple[Any, ...], dict[str, Any]] = {}
        for one in found:
            key = (data, one["faces"], one["gain"], one["noise_sigma_of_1023"])
            by_condition.setdefault(key, {})[one["stretch"]] = one
        for key, maps in by_condition.items():
            shares = [
                f"{100 * maps[m][f]:.1f}" for f in ("found", "right_of_all") for m in ("full", "percentile")
            ]
            rows.append((*key, *shares))
    header = ("data", "faces", "gain", "noise, of 1023")
    header += ("found, full", "found, percentile", "right, full", "right, percentile")
    origin = origin_of(record, "python benchmarks/near_infrared.py fer2013.csv.gz --photographs DIR")
    return f"{table(header, rows)}\n\n{origin}"


def trackers() -> str:
    """Return identity switches, misses and false tracks of each tracker on the same scenes."""
    rows, found = [], {}
    for name in ("tracking_sim", "tracking_yunet"):
        found = read_record(name)
        rows += [
            (
                found["detections"],
                tracker,
                *(one[key] for key in ("switches", "misses", "false_tracks")),
                f"{one['idf1']:.3f}",
                f"{one['mota']:.3f}",
            )
            for tracker, one in found["trackers"].items()
        ]
    header = ("detections", "tracker", "identity switches", "misses", "false tracks", "IDF1", "MOTA")
    return f"{table(header, rows)}\n\n{origin_of({'record': found}, 'python benchmarks/tracking.py compare')}"


def smoothing() -> str:
    """Return changes per minute, agreement and delay, with and without smoothing."""
    found = read_record("smoothing")
    rows = []
    for condition, part in found["conditions"].items():
        for one in part["figures"]:
            delays = " / ".join(f"{one[f'p{p}_ms']:.0f}" for p in (50, 95))
            rows.append(
                (
                    condition,
                    one["per_second"],
                    one["answer"],
                    f"{one['changes_per_minute']:.1f}",
                    percent(one["agreement"]),
                    unbroken(f"{delays} ({one['delays']})"),
                )
            )
    header = (
        "camera", "classifications per second", "label", "changes per minute", "agreement, %",
        "delay p50 / p95, ms (n)",
    )  # fmt: skip
    return f"{table(header, rows)}\n\n{origin_of(found, 'python benchmarks/smoothing.py fer2013.csv.gz')}"


def schedule_figures() -> str:
    """Return times of streams with the schedule beside an earlier version, and the tracks of both schedules."""
    beside, tracked = read_record("pipeline_beside"), read_record("tracked_streams")
    names = {
        "other": "commit efb9382, every frame",
        "every frame": "every frame",
        "schedule": "with the schedule",
    }
    rows = [
        (
            row["scene"],
            names[row["version"]],
            unbroken(
                " / ".join(f"{row[f'wall {p} ms']:.1f}" for p in ("p50", "p90", "p99")) + f" ({row['n']})"
            ),
            f"{row['CPU mean ms']:.1f}",
            f"{row['wall ratio']:.2f}",
            f"{row['CPU ratio']:.2f}",
        )
        for row in beside["rows"]
    ]
    header = ("faces", "version", "frame, ms", "processor time, ms", "p50 ratio", "processor ratio")
    of_tracks = [
        (
            name,
            one["switches"],
            one["misses"],
            one["false_tracks"],
            f"{one['idf1']:.3f}",
            f"{one['mota']:.3f}",
        )
        for name, one in tracked["schedules"].items()
    ]
    second = ("streams", "identity switches", "misses", "false tracks", "IDF1", "MOTA")
    command = "python benchmarks/pipeline.py beside CHECKOUT --data DIR"
    return f"{table(header, rows)}\n\n{origin_of(beside, command)}\n\n{table(second, of_tracks)}\n\n{origin_of(tracked, 'python benchmarks/tracked_streams.py --faces DIR')}"
