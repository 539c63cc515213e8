"""Print, as JSON, the faces that the runtime finds in every picture of a folder: FOLDER [BUNDLE]."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import cv2

from fer_edge import Runtime
from fer_edge.system.provenance import tool_versions


def find_faces(pictures: Path, bundle: str | None) -> dict[str, Any]:
    """Return boxes and probabilities, not rounded, by picture, with what made them."""
    with Runtime(bundle, backend="onnxruntime", min_probability=0.0) as runtime:
        faces = {
            file.name: [
                {
                    "box_xyxy": list(face.box_xyxy),
                    "label": face.label,
                    "probabilities": dict(face.probabilities),
                }
                for face in runtime(cv2.imread(str(file))).faces
            ]
            for file in sorted(pictures.glob("*.png"))
        }
    return {
        "machine": platform.machine(),
        "precision": runtime.precision,
        "versions": tool_versions(),
        "faces": faces,
    }


if __name__ == "__main__":
    print(json.dumps(find_faces(Path(sys.argv[1]), *sys.argv[2:3] or (None,)), indent=2))
