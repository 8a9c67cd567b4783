"""The report of a study: Markdown with tables and figures, and every number as JSON."""

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
    """Write report.md, data.json and the figures to `root/report`; return the path of report.md.

    Figures without data are left out. The folder is replaced as a whole, so that it never mixes figures of an older
    report with newer numbers. The same study and run directories give the same bytes on one installation. Raises
    ProtocolMismatchError if runs were scored under different protocols, StorageError if a write fails.
    """
    remove_temporaries(root)
    report = read_study(study, root)
    files = plots.draw_all(report)
    sheet = sample_sheet(report)
    if sheet is not None:
        files[text.SAMPLES] = _png(sheet)
    path = root / "report"
    with atomic_directory(path) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_json(folder / "data.json", document(report))
        (folder / "report.md").write_text(text.markdown(report, files), encoding="utf-8")
    return path / "report.md"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
