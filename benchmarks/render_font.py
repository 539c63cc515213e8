"""Render the letters of Roboto Medium into ``fer_edge/drawing/roboto.npz``, from which labels are drawn.

    pip install font-roboto==0.0.1
    python benchmarks/render_font.py PATH/TO/Roboto-Medium.ttf

The package draws text without a font library: an import of Pillow and its first text take about ten times as long as
reading this file. The SHA-256 of the font is stored with the letters.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

EM_PX = 64
#: Height above and below the baseline, in em: capitals with an accent, and the tails of letters. Capitals, 0.71 em
#: high, are then in the middle of a line.
ASCENT_EM, DESCENT_EM = 0.96, 0.26
#: A letter may extend beyond its own width by this much on both sides.
MARGIN_PX = 6
#: ASCII, Latin-1, and the punctuation of labels. The last one, a lozenge with a question mark, stands for all others.
CHARACTERS = "".join(map(chr, [*range(32, 127), *range(161, 256)])) + "–…\ufffd"
OUTPUT = Path(__file__).resolve().parents[1] / "fer_edge" / "drawing" / "roboto.npz"


def render(font_file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file.

    Returns
    -------
    dict of str to np.ndarray
        ``characters``, code points ``[K]`` uint32; ``advances_px`` ``[K]`` float32; ``lefts_px`` ``[K + 1]`` int32, where
        each letter begins in ``coverage`` ``[height, width]`` uint8; ``em_px``, ``margin_px``; ``font``, its SHA-256.
    """
    font = ImageFont.truetype(str(font_file), EM_PX, layout_engine=ImageFont.Layout.BASIC)
    height, baseline = round((ASCENT_EM + DESCENT_EM) * EM_PX), round(ASCENT_EM * EM_PX)
    advances = [font.getlength(character) for character in CHARACTERS]
    cells = []
    for character, advance in zip(CHARACTERS, advances, strict=True):
        cell = Image.new("L", (int(np.ceil(advance)) + 2 * MARGIN_PX, height))
        ImageDraw.Draw(cell).text((MARGIN_PX, baseline), character, 255, font, anchor="ls")
        cells.append(np.asarray(cell))
    return {
        "characters": np.array([ord(character) for character in CHARACTERS], np.uint32),
        "advances_px": np.array(advances, np.float32),
        "lefts_px": np.cumsum([0, *(cell.shape[1] for cell in cells)], dtype=np.int32),
        "coverage": np.concatenate(cells, axis=1),
        "em_px": np.array(EM_PX),
        "margin_px": np.array(MARGIN_PX),
        "font": np.array(hashlib.sha256(font_file.read_bytes()).hexdigest()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("font", type=Path, help="Roboto-Medium.ttf")
    np.savez_compressed(OUTPUT, **render(parser.parse_args().font))
    print(OUTPUT, OUTPUT.stat().st_size)


if __name__ == "__main__":
    main()
