"""Images are rendered once, found again, and limited in size; a failed render leaves nothing behind."""

import asyncio
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gan_mhe.files import sha256_file
from server.images.image_cache import MAX_CONCURRENT_RENDERS, MAX_FRAMES, RENDERER, ImageCache, RenderError, spread

Grid = Callable[..., tuple[Path, str]]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Write an image; return its path and SHA-256."""

    def write(name: str = "a.png", level: int = 90, size: tuple[int, int] = (96, 96)) -> tuple[Path, str]:
        path = tmp_path / "blobs" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, (level, level, 255 - level)).save(path)
        return path, sha256_file(path)

    return write


class Renderer:
    """Stands in for `server.images.render`: runs the given Python with `request`, and logs each call."""

    PRELUDE = (
        "import json, os, pathlib, signal, sys, time\n"
        "request = json.load(sys.stdin)\n"
        "output = pathlib.Path(request['output'])\n"
        "def note(word):\n"
        "    with open(sys.argv[1], 'a') as log: log.write(json.dumps([word, os.getpid(), request]) + '\\n')\n"
        "note('begin')\n"
    )

    def __init__(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = log
        self._script = "output.write_bytes(b'image')"
        original = asyncio.create_subprocess_exec

        async def start(program: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
            assert (program, arguments) == (sys.executable, ("-m", "server.images.render"))
            script = f"{self.PRELUDE}{self._script}\nnote('end')"
            return await original(program, "-S", "-c", script, str(log), **options)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)

    def runs(self, script: str) -> None:
        self._script = script

    @property
    def log(self) -> list[tuple[str, int, dict[str, Any]]]:
        if not self._log.exists():
            return []
        return [tuple(json.loads(line)) for line in self._log.read_text().splitlines()]

    @property
    def begun(self) -> int:
        return sum(word == "begin" for word, _, _ in self.log)

    async def wait_for(self, begun: int) -> None:
        deadline = time.monotonic() + 10
        while self.begun < begun:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Renderer:
    (tmp_path / "derived").mkdir()
    return Renderer(tmp_path / "log", monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "derived"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestImages:
    def test_a_thumbnail_is_a_small_png(self, root: Path, grid: Grid) -> None:
        made = asyncio.run(ImageCache(root).thumbnail(*grid(), 64))
        assert made.parent == root
        with Image.open(made) as image:
            assert (image.format, image.size) == ("PNG", (64, 64))

    @pytest.mark.parametrize("format_", ["webp", "gif"])
    def test_an_animation_shows_every_grid(self, root: Path, grid: Grid, format_: Any) -> None:
        sources = [(10 * number, *grid(f"{number}.png", 80 * number)) for number in range(3)]
        made = asyncio.run(ImageCache(root).animation(sources, format=format_, fps=5))
        with Image.open(made) as image:
            assert (image.format, getattr(image, "n_frames", 1)) == (format_.upper(), 3)

    def test_it_works_from_any_directory_and_with_relative_paths(
        self, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, sha256 = grid()
        monkeypatch.chdir(tmp_path)
        made = asyncio.run(ImageCache(Path("derived")).thumbnail(path.relative_to(tmp_path), sha256, 64))
        assert made.is_absolute() and made.parent == tmp_path / "derived" and made.exists()

    def test_a_request_that_the_renderer_rejects_is_an_error_with_its_message(self, root: Path, grid: Grid) -> None:
        with pytest.raises(RenderError, match="width: expected one of 64, 128, 256, 512, got 65") as refused:
            asyncio.run(ImageCache(root).thumbnail(*grid(), 65))
        assert refused.value.code == "render_failed"

    def test_the_error_for_a_missing_grid_names_no_directory(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(RenderError, match=r"source gone\.png: expected a PNG") as refused:
            asyncio.run(ImageCache(root).thumbnail(tmp_path / "gone.png", "0" * 64, 64))
        assert str(tmp_path) not in str(refused.value)

    def test_an_animation_of_no_grids_is_an_error(self, root: Path) -> None:
        with pytest.raises(RenderError, match="sources: expected a list of at least one path"):
            asyncio.run(ImageCache(root).animation([], format="webp", fps=5))

    def test_the_directory_may_be_deleted_at_any_time(self, root: Path, grid: Grid) -> None:
        async def images() -> Path:
            cache = ImageCache(root)
            await cache.thumbnail(*grid(), 64)
            shutil.rmtree(root)
            return await cache.thumbnail(*grid(), 64)

        assert asyncio.run(images()).exists()


class TestOnce:
    def test_a_cached_image_is_not_rendered_again(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        async def twice() -> tuple[Path, Path]:
            cache = ImageCache(root)
            return await cache.thumbnail(*grid(), 64), await cache.thumbnail(*grid(), 64)

        first, second = asyncio.run(twice())
        assert first == second
        assert renderer.begun == 1

    def test_an_image_is_still_cached_after_a_restart(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        paths = {asyncio.run(ImageCache(root).thumbnail(*grid(), 64)) for _ in range(2)}
        assert len(paths) == 1
        assert renderer.begun == 1

    def test_concurrent_requests_share_one_render(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("time.sleep(0.2); output.write_bytes(b'image')")

        async def crowd() -> list[Path]:
            cache = ImageCache(root)
            return await asyncio.gather(*(cache.thumbnail(*grid(), 64) for _ in range(20)))

        assert len(set(asyncio.run(crowd()))) == 1
        assert renderer.begun == 1

    def test_the_key_is_the_content_and_not_the_path(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        variants = (("a.png", 1), ("b.png", 1), ("a.png", 2))
        first, moved, changed = [asyncio.run(ImageCache(root).thumbnail(*grid(*variant), 64)) for variant in variants]
        assert first == moved != changed
        assert renderer.begun == 2

    def test_every_option_and_the_order_of_hashes_are_part_of_the_key(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        (a, sha_a), (b, sha_b) = grid("a.png", 1), grid("b.png", 2)
        animation = [(0, a, sha_a), (5, b, sha_b)]

        async def images() -> list[Path]:
            cache = ImageCache(root)
            return [
                await cache.thumbnail(a, sha_a, 64),
                await cache.thumbnail(a, sha_a, 128),
                await cache.animation(animation, format="webp", fps=5),
                await cache.animation(animation, format="gif", fps=5),
                await cache.animation(animation, format="webp", fps=6),
                await cache.animation(animation[:1], format="webp", fps=5),
                await cache.animation([(0, a, sha_a), (6, b, sha_b)], format="webp", fps=5),
                await cache.animation([(0, b, sha_b), (5, a, sha_a)], format="webp", fps=5),
            ]

        assert len(set(asyncio.run(images()))) == 8

    def test_a_cancelled_caller_does_not_cancel_the_render_for_others(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        renderer.runs("time.sleep(0.3); output.write_bytes(b'image')")

        async def leave() -> Path:
            cache = ImageCache(root)
            leaver = asyncio.create_task(cache.thumbnail(*grid(), 64))
            stayer = asyncio.create_task(cache.thumbnail(*grid(), 64))
            await renderer.wait_for(1)
            leaver.cancel()
            return await stayer

        assert asyncio.run(leave()).read_bytes() == b"image"
        assert renderer.begun == 1

    def test_a_new_renderer_version_renders_again(
        self, root: Path, grid: Grid, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = asyncio.run(ImageCache(root).thumbnail(*grid(), 64))
        monkeypatch.setattr("server.images.image_cache.RENDERER", RENDERER + 1)
        assert asyncio.run(ImageCache(root).thumbnail(*grid(), 64)) != old

    def test_a_failure_reaches_all_callers_and_the_next_request_tries_again(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        async def images() -> Path:
            cache = ImageCache(root)
            renderer.runs("time.sleep(0.1); sys.exit('no JSON')")
            errors = await asyncio.gather(*(cache.thumbnail(*grid(), 64) for _ in range(3)), return_exceptions=True)
            assert [str(error) for error in errors] == ["the renderer ended with exit code 1"] * 3
            renderer.runs("output.write_bytes(b'image')")
            return await cache.thumbnail(*grid(), 64)

        assert asyncio.run(images()).exists()
        assert renderer.begun == 2


class TestBounds:
    def test_at_most_two_renders_run_at_once(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("time.sleep(0.1); output.write_bytes(b'image')")
        sources = [grid(f"{level}.png", level) for level in range(6)]

        async def crowd() -> None:
            cache = ImageCache(root)
            await asyncio.gather(*(cache.thumbnail(*source, 64) for source in sources))

        asyncio.run(crowd())
        running = list(itertools.accumulate(1 if word == "begin" else -1 for word, _, _ in renderer.log))
        assert max(running) == MAX_CONCURRENT_RENDERS == 2
        assert renderer.begun == 6

    def test_a_render_that_hangs_is_killed_and_leaves_nothing(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "output.with_name(f'.{output.name}.0a1b.tmp').write_bytes(b'half'); note('hang'); time.sleep(60)"
        )
        with pytest.raises(RenderError, match=r"not ready within 1\.5 seconds"):
            asyncio.run(ImageCache(root, time_limit_seconds=1.5).thumbnail(*grid(), 64))
        assert [word for word, _, _ in renderer.log] == ["begin", "hang"]
        assert not alive(renderer.log[0][1])
        assert list(root.iterdir()) == []

    def test_a_render_that_times_out_makes_way_for_the_next(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("request['width'] == 64 and time.sleep(60); output.write_bytes(b'image')")
        sources = [grid(f"{level}.png", level) for level in range(MAX_CONCURRENT_RENDERS)]

        async def crowd() -> list[Path | BaseException]:
            cache = ImageCache(root, time_limit_seconds=1)
            hanging = [cache.thumbnail(*source, 64) for source in sources]
            return await asyncio.gather(*hanging, cache.thumbnail(*sources[0], 128), return_exceptions=True)

        *failed, made = asyncio.run(crowd())
        assert all(isinstance(error, RenderError) for error in failed)
        assert isinstance(made, Path) and made.exists()

    def test_shutting_down_kills_running_renders(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("time.sleep(60)")

        async def leave() -> None:
            request = asyncio.create_task(ImageCache(root).thumbnail(*grid(), 64))
            await renderer.wait_for(1)
            request.cancel()

        asyncio.run(leave())
        assert not alive(renderer.log[0][1])

    def test_incomplete_files_of_a_killed_service_are_removed_at_the_next_start(self, root: Path) -> None:
        root.mkdir()
        (root / ".aa.webp.0a1b.tmp").write_bytes(b"half")
        (root / "bb.webp").write_bytes(b"whole")
        ImageCache(root)
        assert [path.name for path in root.iterdir()] == ["bb.webp"]

    def test_an_animation_of_many_grids_shows_an_even_selection(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        path, sha256 = grid()
        sources = [(step, path, sha256) for step in range(0, 1000, 2)]
        asyncio.run(ImageCache(root).animation(sources, format="webp", fps=5))
        request = renderer.log[0][2]
        steps = request["steps"]
        assert len(steps) == len(request["sources"]) == MAX_FRAMES == 200
        assert (steps[0], steps[-1]) == (0, 998)
        assert {later - earlier for earlier, later in itertools.pairwise(steps)} == {4, 6}

    @pytest.mark.parametrize(
        ("length", "count"), [(0, 2), (1, 2), (2, 2), (3, 2), (7, 7), (8, 7), (201, 200), (999, 200)]
    )
    def test_a_selection_has_no_repetition_and_both_ends(self, length: int, count: int) -> None:
        chosen = spread(range(length), count)
        assert len(chosen) == len(set(chosen)) == min(length, count)
        assert chosen == sorted(chosen)
        assert chosen[:1] == list(range(length))[:1] and chosen[-1:] == list(range(length))[-1:]


class TestSizeLimit:
    """Each image of the stand-in takes 100 bytes."""

    @pytest.fixture(autouse=True)
    def hundred_bytes(self, renderer: Renderer) -> None:
        renderer.runs("output.write_bytes(bytes(100))")

    def test_the_least_recently_requested_images_are_deleted_first(self, root: Path, grid: Grid) -> None:
        async def images() -> list[bool]:
            cache = ImageCache(root, max_bytes=300)
            made = [await cache.thumbnail(*grid(f"{level}.png", level), 64) for level in range(3)]
            await cache.thumbnail(*grid("0.png", 0), 64)
            made.append(await cache.thumbnail(*grid("3.png", 3), 64))
            return [path.exists() for path in made]

        assert asyncio.run(images()) == [True, False, True, True]

    def test_the_order_of_requests_survives_a_restart(self, root: Path, grid: Grid) -> None:
        made = [asyncio.run(ImageCache(root).thumbnail(*grid(f"{level}.png", level), 64)) for level in range(3)]
        asyncio.run(ImageCache(root).thumbnail(*grid("0.png", 0), 64))
        made.append(asyncio.run(ImageCache(root, max_bytes=200).thumbnail(*grid("3.png", 3), 64)))
        assert [path.exists() for path in made] == [True, False, False, True]

    def test_nothing_is_deleted_below_the_limit(self, root: Path, grid: Grid) -> None:
        for level in range(3):
            asyncio.run(ImageCache(root, max_bytes=300).thumbnail(*grid(f"{level}.png", level), 64))
        assert len(list(root.iterdir())) == 3

    def test_an_image_larger_than_the_limit_is_still_returned(self, root: Path, grid: Grid) -> None:
        old = asyncio.run(ImageCache(root).thumbnail(*grid("0.png", 0), 64))
        new = asyncio.run(ImageCache(root, max_bytes=50).thumbnail(*grid("1.png", 1), 64))
        assert (old.exists(), new.exists()) == (False, True)

    def test_files_being_written_are_not_deleted(self, root: Path, grid: Grid) -> None:
        cache = ImageCache(root, max_bytes=50)
        (root / ".other.webp.0a1b.tmp").write_bytes(bytes(100))
        asyncio.run(cache.thumbnail(*grid(), 64))
        assert (root / ".other.webp.0a1b.tmp").exists()

    def test_a_request_does_not_change_an_images_modification_time(self, root: Path, grid: Grid) -> None:
        made = asyncio.run(ImageCache(root).thumbnail(*grid(), 64))
        os.utime(made, ns=(1, 2))
        asyncio.run(ImageCache(root).thumbnail(*grid(), 64))
        assert made.stat().st_mtime_ns == 2 and made.stat().st_atime_ns > 1
