"""Derived pictures are made once, found again, kept within bounds; nothing of a failed one stays behind."""

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
from server.images.image_cache import MAX_FRAMES, RENDERER, RENDERS_AT_ONCE, Derived, RenderError, spread

Grid = Callable[..., tuple[Path, str]]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Write a picture; return its path and SHA-256."""

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
        "    with open(sys.argv[1], 'a') as diary: diary.write(json.dumps([word, os.getpid(), request]) + '\\n')\n"
        "note('begin')\n"
    )

    def __init__(self, diary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._diary = diary
        self._script = "output.write_bytes(b'picture')"
        original = asyncio.create_subprocess_exec

        async def start(program: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
            assert (program, arguments) == (sys.executable, ("-m", "server.images.render"))
            script = f"{self.PRELUDE}{self._script}\nnote('end')"
            return await original(program, "-S", "-c", script, str(diary), **options)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)

    def runs(self, script: str) -> None:
        self._script = script

    @property
    def diary(self) -> list[tuple[str, int, dict[str, Any]]]:
        if not self._diary.exists():
            return []
        return [tuple(json.loads(line)) for line in self._diary.read_text().splitlines()]

    @property
    def begun(self) -> int:
        return sum(word == "begin" for word, _, _ in self.diary)

    async def wait_for(self, begun: int) -> None:
        deadline = time.monotonic() + 10
        while self.begun < begun:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Renderer:
    (tmp_path / "derived").mkdir()
    return Renderer(tmp_path / "diary", monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "derived"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestPictures:
    def test_a_thumbnail_is_a_small_png(self, root: Path, grid: Grid) -> None:
        made = asyncio.run(Derived(root).thumbnail(*grid(), 64))
        assert made.parent == root
        with Image.open(made) as picture:
            assert (picture.format, picture.size) == ("PNG", (64, 64))

    @pytest.mark.parametrize("format_", ["webp", "gif"])
    def test_an_animation_shows_every_grid(self, root: Path, grid: Grid, format_: Any) -> None:
        sources = [(10 * number, *grid(f"{number}.png", 80 * number)) for number in range(3)]
        made = asyncio.run(Derived(root).animation(sources, format=format_, fps=5))
        with Image.open(made) as picture:
            assert (picture.format, getattr(picture, "n_frames", 1)) == (format_.upper(), 3)

    def test_it_works_from_any_directory_and_with_relative_paths(
        self, grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, sha256 = grid()
        monkeypatch.chdir(tmp_path)
        made = asyncio.run(Derived(Path("derived")).thumbnail(path.relative_to(tmp_path), sha256, 64))
        assert made.is_absolute() and made.parent == tmp_path / "derived" and made.exists()

    def test_what_the_renderer_refuses_is_an_error_with_its_words(self, root: Path, grid: Grid) -> None:
        with pytest.raises(RenderError, match="width: expected one of 64, 128, 256, 512, got 65") as refused:
            asyncio.run(Derived(root).thumbnail(*grid(), 65))
        assert refused.value.code == "render_failed"

    def test_a_grid_that_is_gone_is_an_error_that_names_no_folder(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(RenderError, match=r"source gone\.png: expected a PNG") as refused:
            asyncio.run(Derived(root).thumbnail(tmp_path / "gone.png", "0" * 64, 64))
        assert str(tmp_path) not in str(refused.value)

    def test_a_film_of_no_grids_is_an_error(self, root: Path) -> None:
        with pytest.raises(RenderError, match="sources: expected a list of at least one path"):
            asyncio.run(Derived(root).animation([], format="webp", fps=5))

    def test_the_directory_may_be_deleted_at_any_time(self, root: Path, grid: Grid) -> None:
        async def pictures() -> Path:
            derived = Derived(root)
            await derived.thumbnail(*grid(), 64)
            shutil.rmtree(root)
            return await derived.thumbnail(*grid(), 64)

        assert asyncio.run(pictures()).exists()


class TestOnce:
    def test_a_picture_that_is_there_is_not_made_again(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        async def twice() -> tuple[Path, Path]:
            derived = Derived(root)
            return await derived.thumbnail(*grid(), 64), await derived.thumbnail(*grid(), 64)

        first, second = asyncio.run(twice())
        assert first == second
        assert renderer.begun == 1

    def test_it_is_still_there_after_a_restart(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        paths = {asyncio.run(Derived(root).thumbnail(*grid(), 64)) for _ in range(2)}
        assert len(paths) == 1
        assert renderer.begun == 1

    def test_all_who_ask_at_the_same_time_wait_for_one_render(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("time.sleep(0.2); output.write_bytes(b'picture')")

        async def crowd() -> list[Path]:
            derived = Derived(root)
            return await asyncio.gather(*(derived.thumbnail(*grid(), 64) for _ in range(20)))

        assert len(set(asyncio.run(crowd()))) == 1
        assert renderer.begun == 1

    def test_content_decides_and_not_the_place(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        places = (("a.png", 1), ("b.png", 1), ("a.png", 2))
        first, moved, changed = [asyncio.run(Derived(root).thumbnail(*grid(*place), 64)) for place in places]
        assert first == moved != changed
        assert renderer.begun == 2

    def test_every_option_and_the_order_of_hashes_make_another_picture(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        (a, sha_a), (b, sha_b) = grid("a.png", 1), grid("b.png", 2)
        film = [(0, a, sha_a), (5, b, sha_b)]

        async def pictures() -> list[Path]:
            derived = Derived(root)
            return [
                await derived.thumbnail(a, sha_a, 64),
                await derived.thumbnail(a, sha_a, 128),
                await derived.animation(film, format="webp", fps=5),
                await derived.animation(film, format="gif", fps=5),
                await derived.animation(film, format="webp", fps=6),
                await derived.animation(film[:1], format="webp", fps=5),
                await derived.animation([(0, a, sha_a), (6, b, sha_b)], format="webp", fps=5),
                await derived.animation([(0, b, sha_b), (5, a, sha_a)], format="webp", fps=5),
            ]

        assert len(set(asyncio.run(pictures()))) == 8

    def test_a_caller_who_goes_away_does_not_take_the_picture_from_the_others(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        renderer.runs("time.sleep(0.3); output.write_bytes(b'picture')")

        async def leave() -> Path:
            derived = Derived(root)
            leaver = asyncio.create_task(derived.thumbnail(*grid(), 64))
            stayer = asyncio.create_task(derived.thumbnail(*grid(), 64))
            await renderer.wait_for(1)
            leaver.cancel()
            return await stayer

        assert asyncio.run(leave()).read_bytes() == b"picture"
        assert renderer.begun == 1

    def test_a_renderer_that_draws_differently_makes_its_pictures_anew(
        self, root: Path, grid: Grid, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = asyncio.run(Derived(root).thumbnail(*grid(), 64))
        monkeypatch.setattr("server.images.image_cache.RENDERER", RENDERER + 1)
        assert asyncio.run(Derived(root).thumbnail(*grid(), 64)) != old

    def test_a_failure_is_everybodys_and_is_tried_again_next_time(
        self, root: Path, grid: Grid, renderer: Renderer
    ) -> None:
        async def pictures() -> Path:
            derived = Derived(root)
            renderer.runs("time.sleep(0.1); sys.exit('no JSON')")
            said = await asyncio.gather(*(derived.thumbnail(*grid(), 64) for _ in range(3)), return_exceptions=True)
            assert [str(error) for error in said] == ["the renderer ended with exit code 1"] * 3
            renderer.runs("output.write_bytes(b'picture')")
            return await derived.thumbnail(*grid(), 64)

        assert asyncio.run(pictures()).exists()
        assert renderer.begun == 2


class TestBounds:
    def test_no_more_than_two_render_at_once(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("time.sleep(0.1); output.write_bytes(b'picture')")
        sources = [grid(f"{level}.png", level) for level in range(6)]

        async def crowd() -> None:
            derived = Derived(root)
            await asyncio.gather(*(derived.thumbnail(*source, 64) for source in sources))

        asyncio.run(crowd())
        running = list(itertools.accumulate(1 if word == "begin" else -1 for word, _, _ in renderer.diary))
        assert max(running) == RENDERS_AT_ONCE == 2
        assert renderer.begun == 6

    def test_a_render_that_hangs_is_killed_and_leaves_nothing(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "output.with_name(f'.{output.name}.0a1b.tmp').write_bytes(b'half'); note('hang'); time.sleep(60)"
        )
        with pytest.raises(RenderError, match=r"not ready within 1\.5 seconds"):
            asyncio.run(Derived(root, time_limit_seconds=1.5).thumbnail(*grid(), 64))
        assert [word for word, _, _ in renderer.diary] == ["begin", "hang"]
        assert not alive(renderer.diary[0][1])
        assert list(root.iterdir()) == []

    def test_a_hanging_render_gives_its_turn_to_the_next(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("request['width'] == 64 and time.sleep(60); output.write_bytes(b'picture')")
        sources = [grid(f"{level}.png", level) for level in range(RENDERS_AT_ONCE)]

        async def crowd() -> list[Path | BaseException]:
            derived = Derived(root, time_limit_seconds=1)
            hanging = [derived.thumbnail(*source, 64) for source in sources]
            return await asyncio.gather(*hanging, derived.thumbnail(*sources[0], 128), return_exceptions=True)

        *failed, made = asyncio.run(crowd())
        assert all(isinstance(error, RenderError) for error in failed)
        assert isinstance(made, Path) and made.exists()

    def test_the_end_of_the_service_ends_what_it_is_rendering(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        renderer.runs("time.sleep(60)")

        async def leave() -> None:
            request = asyncio.create_task(Derived(root).thumbnail(*grid(), 64))
            await renderer.wait_for(1)
            request.cancel()

        asyncio.run(leave())
        assert not alive(renderer.diary[0][1])

    def test_what_a_killed_service_left_half_done_goes_at_the_next_start(self, root: Path) -> None:
        root.mkdir()
        (root / ".aa.webp.0a1b.tmp").write_bytes(b"half")
        (root / "bb.webp").write_bytes(b"whole")
        Derived(root)
        assert [path.name for path in root.iterdir()] == ["bb.webp"]

    def test_a_film_of_many_grids_shows_an_even_selection(self, root: Path, grid: Grid, renderer: Renderer) -> None:
        path, sha256 = grid()
        sources = [(step, path, sha256) for step in range(0, 1000, 2)]
        asyncio.run(Derived(root).animation(sources, format="webp", fps=5))
        request = renderer.diary[0][2]
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


class TestRoom:
    """Each picture of the stand-in takes 100 bytes."""

    @pytest.fixture(autouse=True)
    def hundred_bytes(self, renderer: Renderer) -> None:
        renderer.runs("output.write_bytes(bytes(100))")

    def test_the_pictures_asked_for_longest_ago_are_deleted_first(self, root: Path, grid: Grid) -> None:
        async def pictures() -> list[bool]:
            derived = Derived(root, max_bytes=300)
            made = [await derived.thumbnail(*grid(f"{level}.png", level), 64) for level in range(3)]
            await derived.thumbnail(*grid("0.png", 0), 64)
            made.append(await derived.thumbnail(*grid("3.png", 3), 64))
            return [path.exists() for path in made]

        assert asyncio.run(pictures()) == [True, False, True, True]

    def test_what_was_asked_for_last_is_remembered_over_a_restart(self, root: Path, grid: Grid) -> None:
        made = [asyncio.run(Derived(root).thumbnail(*grid(f"{level}.png", level), 64)) for level in range(3)]
        asyncio.run(Derived(root).thumbnail(*grid("0.png", 0), 64))
        made.append(asyncio.run(Derived(root, max_bytes=200).thumbnail(*grid("3.png", 3), 64)))
        assert [path.exists() for path in made] == [True, False, False, True]

    def test_nothing_is_deleted_below_the_limit(self, root: Path, grid: Grid) -> None:
        for level in range(3):
            asyncio.run(Derived(root, max_bytes=300).thumbnail(*grid(f"{level}.png", level), 64))
        assert len(list(root.iterdir())) == 3

    def test_a_picture_larger_than_all_room_is_still_answered(self, root: Path, grid: Grid) -> None:
        old = asyncio.run(Derived(root).thumbnail(*grid("0.png", 0), 64))
        new = asyncio.run(Derived(root, max_bytes=50).thumbnail(*grid("1.png", 1), 64))
        assert (old.exists(), new.exists()) == (False, True)

    def test_what_is_being_written_is_left_alone(self, root: Path, grid: Grid) -> None:
        derived = Derived(root, max_bytes=50)
        (root / ".other.webp.0a1b.tmp").write_bytes(bytes(100))
        asyncio.run(derived.thumbnail(*grid(), 64))
        assert (root / ".other.webp.0a1b.tmp").exists()

    def test_asking_does_not_change_when_a_picture_was_made(self, root: Path, grid: Grid) -> None:
        made = asyncio.run(Derived(root).thumbnail(*grid(), 64))
        os.utime(made, ns=(1, 2))
        asyncio.run(Derived(root).thumbnail(*grid(), 64))
        assert made.stat().st_mtime_ns == 2 and made.stat().st_atime_ns > 1
