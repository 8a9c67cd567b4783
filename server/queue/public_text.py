"""Messages of processes as clients may read them: with names in place of the server's paths."""

import re
from collections.abc import Iterator
from pathlib import Path

from gan_mhe.files import default_cache_dir
from server.settings import Settings

_PART = r"[^\s/'\"`,;:=()\[\]{}<>|*]+"
_QUOTED = re.compile(r"(['\"])~?/(?:[^'\"\n]*/)?([^'\"\n/]+)/?\1")
_UNQUOTED = re.compile(rf"(?<![\w./~-])~?/(?:{_PART}/)*({_PART})")


def public_text(text: str, settings: Settings) -> str:
    """A message without the server's paths.

    Files of jobs are relative to the folder of all jobs, so that they begin with a job's id. Files of the operator
    begin with the name that the settings give to their folder, those of the service with the setting that names it.
    Any other absolute path becomes the last of its parts.
    """
    text = text.replace("file://", "")
    for path, name in sorted(_known(settings), key=lambda pair: len(pair[0]), reverse=True):
        end = r"(?![\w.-])" if path.startswith("/") else r"(?=/)"  # a relative path may be a word of the message
        text = re.sub(rf"(?<![\w./-]){re.escape(path)}{end}", name.replace("\\", r"\\"), text)
    return _UNQUOTED.sub(r"\1", _QUOTED.sub(r"\1\2\1", text.replace(f"{_JOBS}/", "")))


_JOBS = "GAN_MHE_DATA_DIR/jobs"


def _known(settings: Settings) -> Iterator[tuple[str, str]]:
    """Paths that have a name, as they are written and as they are resolved, and the names."""
    own = {"GAN_MHE_DATA_DIR": settings.data_dir, "GAN_MHE_CACHE": default_cache_dir()}
    for name, path in (*own.items(), *settings.data_roots.items(), *settings.weights.items()):
        if path != Path():
            yield str(path), name
        yield str(path.resolve()), name
