"""The sample grids of several arms as one sheet, with one row of images per arm."""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report.data import ArmReport, RunReport, StudyReport

MOST_IMAGES = 10

_PADDING = 2  # black pixels between the images of a grid, as in `gan_mhe.images.grids.grid`
_FONT_PIXELS, _MARGIN, _GAP = 14, 8, 6
_WHITE, _BLACK, _GRAY = (255, 255, 255), (0, 0, 0), (80, 80, 80)


@dataclass(frozen=True)
class _Row:
    lines: tuple[str, str]
    strip: Image.Image


def sample_sheet(report: StudyReport) -> Image.Image | None:
    """The first images of the last grid of each arm's first seed that has one; None if there are no grids."""
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
        draw.text((_MARGIN, middle + 1), row.lines[1], fill=_GRAY, font=font, anchor="la")
        sheet.paste(row.strip, (label, top))
        top += height
    return sheet


def _row(arm: ArmReport, metric: str) -> _Row | None:
    for run in arm.runs:
        strip = _strip(arm, run)
        if strip is not None:
            return _Row((arm.arm.name, _described(run, metric)), strip)
    return None


def _described(run: RunReport, metric: str) -> str:
    if run.final is None:
        return f"seed {run.seed}, no score"
    return f"seed {run.seed}: {run.final[metric]:.{METRICS[metric].decimals}f}"


def _strip(arm: ArmReport, run: RunReport) -> Image.Image | None:
    """The first images of the run's grid side by side; None without a readable grid."""
    if run.grid is None:
        return None
    try:
        with Image.open(run.grid, formats=["PNG"]) as opened:
            grid = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # raised by the decoder for a damaged file
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
