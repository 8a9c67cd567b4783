"""The report of a study: Markdown with tables, figures as files beside it, and every number as JSON."""

import io
from pathlib import Path

from PIL import Image

from gan_mhe.files import atomic_directory, remove_temporaries, write_json
from gan_mhe.study.definition import Study
from gan_mhe.study.report import plots, text
from gan_mhe.study.report.data import read_study
from gan_mhe.study.report.document import document
from gan_mhe.study.report.strips import sample_sheet

__all__ = ["write_report"]


def write_report(study: Study, root: Path) -> Path:
    """Write `root/report/`: report.md, data.json and the figures that there are numbers for; return report.md's path.

    The folder is replaced whole, so that a figure of an earlier report never stands beside newer numbers. It depends
    on the study and its run directories alone: the same give the same bytes on one installation. Raises
    ProtocolMismatchError when runs were scored under different protocols, StorageError when the disk refuses.
    """
    remove_temporaries(root)
    report = read_study(study, root)
    files = plots.draw_all(report)
    sheet = sample_sheet(report)
    if sheet is not None:
        files[text.SAMPLES] = _png(sheet)
    place = root / "report"
    with atomic_directory(place) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_json(folder / "data.json", document(report))
        (folder / "report.md").write_text(text.markdown(report, files), encoding="utf-8")
    return place / "report.md"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
