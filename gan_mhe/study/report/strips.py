"""Sample grids of several arms as one sheet: a row of images each."""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report.data import ArmReport, CellReport, StudyReport

MOST_IMAGES = 10

_PADDING = 2  # black pixels between the images of a grid, as `evaluation.samples.grid` draws them
_FONT_PIXELS, _MARGIN, _GAP = 14, 8, 6
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (80, 80, 80)


@dataclass(frozen=True)
class _Row:
    lines: tuple[str, str]
    strip: Image.Image


def sample_sheet(report: StudyReport) -> Image.Image | None:
    """The first images of each arm's first seed that has a picture, from its last grid; None where none has."""
    rows = [row for arm in report.arms if (row := _row(arm, report.study.metric)) is not None]
    if not rows:
        return None
    font = ImageFont.load_default(_FONT_PIXELS)
    label = 2 * _MARGIN + math.ceil(max(font.getlength(line) for row in rows for line in row.lines))
    width = label + max(row.strip.width for row in rows) + _MARGIN
    heights = [max(row.strip.height, 3 * _FONT_PIXELS) + _GAP for row in rows]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), _WHITE)
    draw, top = ImageDraw.Draw(sheet), _GAP
    for row, height in zip(rows, heights, strict=True):
        middle = top + (height - _GAP) // 2
        draw.text((_MARGIN, middle - 1), row.lines[0], fill=_BLACK, font=font, anchor="ld")
        draw.text((_MARGIN, middle + 1), row.lines[1], fill=_GREY, font=font, anchor="la")
        sheet.paste(row.strip, (label, top))
        top += height
    return sheet


def _row(arm: ArmReport, metric: str) -> _Row | None:
    for cell in arm.cells:
        strip = _strip(arm, cell)
        if strip is not None:
            return _Row((arm.arm.name, _described(cell, metric)), strip)
    return None


def _described(cell: CellReport, metric: str) -> str:
    if cell.final is None:
        return f"seed {cell.seed}, no score"
    return f"seed {cell.seed}: {cell.final[metric]:.{METRICS[metric].decimals}f}"


def _strip(arm: ArmReport, cell: CellReport) -> Image.Image | None:
    """The first images of the cell's grid side by side; None without a grid that can be read."""
    if cell.grid is None:
        return None
    try:
        with Image.open(cell.grid, formats=["PNG"]) as opened:
            grid = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # what the decoder raises over a damaged picture
        return None
    count = arm.config.sampling.num_images
    columns = math.isqrt(count - 1) + 1
    side = (grid.width - _PADDING) // columns
    shown = min(MOST_IMAGES, count)
    strip = Image.new("RGB", (shown * side + _PADDING, side + _PADDING))
    for index in range(shown):
        left, top = index % columns * side, index // columns * side
        strip.paste(grid.crop((left, top, left + side + _PADDING, top + side + _PADDING)), (index * side, 0))
    return strip
