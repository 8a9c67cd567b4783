"""A cache of thumbnails and animations of sample grids, rendered once by `server.images.render`.

A cached image's file name is the SHA-256 of the request, in which the sources are given by their hashes. So an image
is never out of date, the same request of two jobs is one file, and the directory may be deleted at any time.
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

# Part of every file name: increase it when `server.images.render` renders the same request differently.
RENDERER = 1
MAX_CONCURRENT_RENDERS = 2
MAX_FRAMES = 200
MAX_SIDE = 640  # pixels of an animation's frames; the usual grid of 8 x 8 images of 64 pixels has 530

T = TypeVar("T")


class RenderError(ServiceError):
    """An image could not be rendered. The message names files without their directories."""

    code = "render_failed"


class ImageCache:
    """The images below `root`. Use one per directory and process, from one event loop.

    max_bytes: limit of the total size; beyond it the least recently requested images are deleted. time_limit_seconds:
    a render that takes longer is killed.
    """

    def __init__(self, root: Path, *, max_bytes: int = 2 * 2**30, time_limit_seconds: float = 60) -> None:
        remove_temporaries(root)
        self._root = root.absolute()
        self._max_bytes = max_bytes
        self._time_limit_seconds = time_limit_seconds
        self._semaphore = asyncio.Semaphore(MAX_CONCURRENT_RENDERS)
        self._renders: dict[Path, asyncio.Task[None]] = {}

    async def thumbnail(self, source: Path, source_sha256: str, width: int) -> Path:
        """The grid at `source` as a PNG of `width` pixels (64, 128, 256, 512), or less if the grid is narrower.

        Raises RenderError.
        """
        options = {"kind": "thumbnail", "width": width}
        return await self._cached(options, {"source": str(source.absolute())}, [source_sha256], "png")

    async def animation(
        self, sources: Sequence[tuple[int, Path, str]], *, format: Literal["webp", "gif"], fps: int
    ) -> Path:
        """The grids (step, path, SHA-256), by increasing step, as an animation of `fps` (1 to 60) frames per second.

        Shows at most MAX_FRAMES of the grids, evenly spaced, the first and the last included. Raises RenderError, for
        example if the grids differ in size.
        """
        shown = spread(sources, MAX_FRAMES)
        steps = [step for step, _, _ in shown]
        options = {"kind": "animation", "steps": steps, "format": format, "fps": fps, "max_side": MAX_SIDE}
        paths = [str(path.absolute()) for _, path, _ in shown]
        return await self._cached(options, {"sources": paths}, [sha256 for _, _, sha256 in shown], format)

    async def _cached(
        self, options: Mapping[str, Any], paths: Mapping[str, Any], hashes: Sequence[str], suffix: str
    ) -> Path:
        """Path of the image; renders it if it is not cached. Concurrent requests share one render."""
        name = sha256_bytes(canonical_json({"renderer": RENDERER, "hashes": hashes, **options}))
        path = self._root / f"{name}.{suffix}"
        if _touch(path):
            return path
        task = self._renders.get(path)
        if task is None:
            task = asyncio.create_task(self._render_to({**options, **paths, "output": str(path)}, path))
            task.add_done_callback(lambda _: self._renders.pop(path))
            self._renders[path] = task
        # Shielded, so that a cancelled caller does not cancel the render for the others.
        await asyncio.shield(task)
        return path

    async def _render_to(self, request: Mapping[str, Any], path: Path) -> None:
        async with self._semaphore:
            try:
                await _render(request, self._time_limit_seconds)
            except BaseException:
                for leftover in self._root.glob(f".{path.name}.*.tmp"):
                    leftover.unlink(missing_ok=True)
                raise
        await asyncio.to_thread(_evict, self._root, self._max_bytes, path)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Pick at most `count` (2 or more) of the items, evenly spaced, the first and the last included."""
    if len(items) <= count:
        return list(items)
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


async def _render(request: Mapping[str, Any], time_limit_seconds: float) -> None:
    """Render in a separate process, which has ended when this returns or raises."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server.images.render",
        cwd=Path(server.__file__).parents[1],  # so that the module is found from any working directory
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(time_limit_seconds):
            _, errors = await process.communicate(json.dumps(request).encode())
    except TimeoutError:
        raise RenderError(f"the image was not ready within {time_limit_seconds:g} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RenderError(_message(errors, process.returncode))


def _message(errors: bytes, returncode: int | None) -> str:
    """The message in the renderer's last line on standard error, or its exit code if there is no message."""
    try:
        return str(json.loads(errors.splitlines()[-1])["message"])
    except (ValueError, LookupError, TypeError):
        return f"the renderer ended with exit code {returncode}"


def _touch(path: Path) -> bool:
    """Record that an image was requested now; False if it does not exist.

    The record is the access time, which survives a restart; file systems may not update it on reads.
    """
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _evict(root: Path, max_bytes: int, newest: Path) -> None:
    """Delete the least recently requested images until the rest takes at most `max_bytes`; keeps `newest`."""
    found: list[tuple[int, int, Path]] = []
    for path in root.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):  # deleted in the meantime
            status = path.stat()
            found.append((status.st_atime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            break
        if path != newest:
            path.unlink(missing_ok=True)
            total -= size
