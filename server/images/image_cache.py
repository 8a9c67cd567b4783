"""Thumbnails and animations of sample grids: made once by `server.images.render`, kept in one directory by content.

A picture's name is the SHA-256 of what was asked for, the sources given by their own hashes. So a picture never goes
out of date, the same request of two jobs is one file, and the directory may be deleted at any time.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import server
from gan_mhe.files import canonical_json, remove_temporaries, sha256_bytes
from server.errors import ServiceError

# Part of every name: raise it when `server.images.render` begins to answer the same request with another image.
RENDERER = 1
RENDERS_AT_ONCE = 2
MAX_FRAMES = 200
MAX_SIDE = 640  # pixels of an animation's frames; the usual grid, 8 x 8 images of 64 pixels, is 530

T = TypeVar("T")


class RenderError(ServiceError):
    """A picture could not be made. The message names files by name only."""

    code = "render_failed"


class Derived:
    """The pictures below `root`. One per directory and process; its methods are for one event loop.

    max_bytes: what the pictures may take together; beyond it those are deleted that were not asked for longest.
    time_limit_seconds: a render that takes longer is killed.
    """

    def __init__(self, root: Path, *, max_bytes: int = 2 * 2**30, time_limit_seconds: float = 60) -> None:
        remove_temporaries(root)
        self._root = root.absolute()
        self._max_bytes = max_bytes
        self._time_limit_seconds = time_limit_seconds
        self._turns = asyncio.Semaphore(RENDERS_AT_ONCE)
        self._under_way: dict[Path, asyncio.Task[None]] = {}

    async def thumbnail(self, source: Path, source_sha256: str, width: int) -> Path:
        """PNG of the grid at `source`, `width` pixels wide (64, 128, 256, 512) or as wide as the grid if that is less.

        Raises RenderError.
        """
        options = {"kind": "thumbnail", "width": width}
        return await self._picture(options, {"source": str(source.absolute())}, [source_sha256], "png")

    async def animation(
        self, sources: Sequence[tuple[int, Path, str]], *, format: Literal["webp", "gif"], fps: int
    ) -> Path:
        """The grids (step, path, SHA-256), by rising step, as a film of `fps` (1 to 60) frames a second.

        Of more than MAX_FRAMES grids it shows so many, spread evenly, the first and the last among them.
        Raises RenderError, for grids of different sizes among other reasons.
        """
        shown = spread(sources, MAX_FRAMES)
        steps = [step for step, _, _ in shown]
        options = {"kind": "animation", "steps": steps, "format": format, "fps": fps, "max_side": MAX_SIDE}
        paths = [str(path.absolute()) for _, path, _ in shown]
        return await self._picture(options, {"sources": paths}, [sha256 for _, _, sha256 in shown], format)

    async def _picture(
        self, options: Mapping[str, Any], places: Mapping[str, Any], hashes: Sequence[str], suffix: str
    ) -> Path:
        """The picture; made when it is not there, and then once for all who ask meanwhile."""
        name = sha256_bytes(canonical_json({"renderer": RENDERER, "hashes": hashes, **options}))
        path = self._root / f"{name}.{suffix}"
        if _use(path):
            return path
        task = self._under_way.get(path)
        if task is None:
            task = asyncio.create_task(self._make({**options, **places, "output": str(path)}, path))
            task.add_done_callback(lambda _: self._under_way.pop(path))
            self._under_way[path] = task
        # A caller who goes away does not take the picture from the others.
        await asyncio.shield(task)
        return path

    async def _make(self, request: Mapping[str, Any], path: Path) -> None:
        async with self._turns:
            try:
                await _render(request, self._time_limit_seconds)
            except BaseException:
                for leftover in self._root.glob(f".{path.name}.*.tmp"):
                    leftover.unlink(missing_ok=True)
                raise
        await asyncio.to_thread(_make_room, self._root, self._max_bytes, path)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` (2 or more) of the items, spread evenly, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


async def _render(request: Mapping[str, Any], time_limit_seconds: float) -> None:
    """Let a process of its own answer the request. Nothing of it runs on after this returns or raises."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server.images.render",
        cwd=Path(server.__file__).parents[1],  # so that it is found whatever the directory of this process
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(time_limit_seconds):
            _, said = await process.communicate(json.dumps(request).encode())
    except TimeoutError:
        raise RenderError(f"the picture was not ready within {time_limit_seconds:g} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RenderError(_message(said, process.returncode))


def _message(said: bytes, returncode: int | None) -> str:
    """What the renderer said last, or how it ended when that is no message of its own."""
    try:
        return str(json.loads(said.splitlines()[-1])["message"])
    except (ValueError, LookupError, TypeError):
        return f"the renderer ended with exit code {returncode}"


def _use(path: Path) -> bool:
    """Note that the picture was asked for now; False when there is none.

    The access time, because it outlives a restart; set explicitly, because file systems are free to skip it on reads.
    """
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _make_room(root: Path, max_bytes: int, newest: Path) -> None:
    """Delete those not asked for longest until the rest takes at most `max_bytes`; `newest` stays in any case."""
    found: list[tuple[int, int, Path]] = []
    for path in root.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            status = path.stat()
            found.append((status.st_atime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            break
        if path != newest:
            path.unlink(missing_ok=True)
            total -= size
