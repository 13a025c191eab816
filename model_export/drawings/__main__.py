"""`python -m model_export.drawings OUT`: a contact sheet of the drawings, with samples of every class."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from model_export.drawings.pictures import CLASSES, STANDARD, STYLES, Difficulty, Style, draw
from service.runtime.disk import replacing


def contact_sheet(style: Style = STANDARD) -> Image.Image:
    """Six pictures of every class, cropped to squares: two classes per row, with their names."""
    samples, side = 6, 88
    cell = side + 4
    caption = 116
    block = caption + samples * cell
    sheet = Image.new("RGB", (2 * block, -(-len(CLASSES) // 2) * cell), "white")
    canvas = ImageDraw.Draw(sheet)
    for label, name in enumerate(CLASSES):
        left, top = block * (label % 2), cell * (label // 2)
        canvas.text((left + caption - 8, top + side // 2), name, fill="black", font_size=15, anchor="rm")
        for i in range(samples):
            sample = draw(label, np.random.default_rng((0, i * len(CLASSES) + label)), style)
            sheet.paste(ImageOps.fit(sample, (side, side)), (left + caption + i * cell, top + 2))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model_export.drawings", description="Draw samples of every class.")
    parser.add_argument("out", type=Path, help="the PNG file to write")
    parser.add_argument(
        "--difficulty", choices=get_args(Difficulty), default="standard", help="how hard to tell (default: standard)"
    )
    args = parser.parse_args()
    with replacing(args.out) as temporary:
        # 128 colours look the same in a seventh of the bytes
        sheet = contact_sheet(STYLES[args.difficulty]).quantize(128, dither=Image.Dither.NONE)
        sheet.save(temporary, "PNG")


if __name__ == "__main__":
    main()
