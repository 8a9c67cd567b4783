"""Thumbnails and animations show the grids, label them with their steps, and are reproducible byte for byte."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.images.render import LAST_FRAME_MS, CannotRender, render
from tests.support.paths import ROOT

RED, GREEN, BLUE = (220, 30, 40), (30, 200, 60), (40, 60, 230)

Grid = Callable[..., Path]
Pixels = Callable[[Path], list[Any]]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Write a image of one color, or of the given pixels (H, W, 3); return its path."""

    def write(name: str, content: Any = RED, size: tuple[int, int] = (96, 96)) -> Path:
        path = tmp_path / name
        image = Image.new("RGB", size, content) if isinstance(content, tuple) else Image.fromarray(content)
        image.save(path)
        return path

    return write


@pytest.fixture
def sources(grid: Grid) -> list[str]:
    return [str(grid(f"{number}.png", color)) for number, color in enumerate((RED, GREEN, BLUE))]


def thumbnail(source: Path, output: Path, width: int = 64, **changes: Any) -> dict[str, Any]:
    return {"kind": "thumbnail", "source": str(source), "width": width, "output": str(output)} | changes


def animation(sources: list[str], output: Path, **changes: Any) -> dict[str, Any]:
    request = {
        "kind": "animation",
        "sources": sources,
        "steps": [100 * number for number in range(len(sources))],
        "format": "webp",
        "fps": 10,
        "max_side": None,
        "output": str(output),
    }
    return request | changes


def command(request: Any, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "server.images.render"],
        input=request if isinstance(request, str) else json.dumps(request),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refusal(request: Any) -> str:
    """The message with which the command refuses the request."""
    finished = command(request)
    assert (finished.returncode, finished.stdout) == (2, "")
    message = json.loads(finished.stderr)
    assert finished.stderr.count("\n") == 1 and list(message) == ["message"]
    return str(message["message"])


def frames(path: Path) -> tuple[list[np.ndarray[Any, Any]], list[int]]:
    """Pixels (H, W, 3) as float and durations in milliseconds of each frame."""
    shown, durations = [], []
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            shown.append(np.asarray(image.convert("RGB"), dtype=float))
            durations.append(image.info["duration"])
    return shown, durations


def local_palettes(content: bytes) -> list[bool]:
    """For each frame of a GIF, whether it has a palette of its own (GIF89a, sections 18 to 25)."""
    position = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    found = []
    while content[position] != 0x3B:
        if content[position] == 0x2C:
            packed = content[position + 9]
            found.append(bool(packed & 0x80))
            position += 11 + (3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0)
        else:
            position += 2
        while content[position]:
            position += content[position] + 1
        position += 1
    return found


class TestThumbnail:
    @pytest.mark.parametrize("width", [64, 128, 256, 512])
    def test_it_has_the_asked_for_width_and_the_grids_proportions(self, grid: Grid, tmp_path: Path, width: int) -> None:
        render(thumbnail(grid("a.png", size=(600, 300)), tmp_path / "out.png", width))
        with Image.open(tmp_path / "out.png") as made:
            assert (made.format, made.mode, made.size) == ("PNG", "RGB", (width, width // 2))

    def test_a_small_grid_is_not_enlarged(self, grid: Grid, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        render(thumbnail(grid("a.png", pixels), tmp_path / "out.png"))
        with Image.open(tmp_path / "out.png") as made:
            assert np.array_equal(np.asarray(made), pixels)

    def test_a_very_wide_grid_keeps_a_row(self, grid: Grid, tmp_path: Path) -> None:
        render(thumbnail(grid("a.png", size=(1000, 2)), tmp_path / "out.png"))
        with Image.open(tmp_path / "out.png") as made:
            assert made.size == (64, 1)

    def test_detail_below_a_pixel_is_averaged_and_not_picked(self, grid: Grid, tmp_path: Path) -> None:
        board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
        render(thumbnail(grid("a.png", np.dstack([board] * 3)), tmp_path / "out.png"))
        with Image.open(tmp_path / "out.png") as made:
            assert np.abs(np.asarray(made, dtype=float)[4:-4, 4:-4] - 127.5).max() < 8

    @pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
    def test_grids_of_any_8_bit_mode_become_rgb(self, tmp_path: Path, mode: str) -> None:
        Image.new("RGB", (80, 80), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
        render(thumbnail(tmp_path / "a.png", tmp_path / "out.png"))
        with Image.open(tmp_path / "out.png") as made:
            assert made.mode == "RGB" and np.asarray(made).min() == 255


class TestAnimation:
    @pytest.mark.parametrize("format_", ["webp", "gif"])
    def test_each_grid_is_a_frame_in_order_above_a_strip(
        self, sources: list[str], tmp_path: Path, format_: str
    ) -> None:
        render(animation(sources, tmp_path / "out", format=format_))
        shown, _ = frames(tmp_path / "out")
        assert {frame.shape for frame in shown} == {(120, 96, 3)}
        for frame, color in zip(shown, (RED, GREEN, BLUE), strict=True):
            assert frame[2:94, 2:94].mean(axis=(0, 1)) == pytest.approx(color, abs=6)
            assert np.median(frame[97:], axis=(0, 1)) == pytest.approx((0, 0, 0), abs=6)

    @pytest.mark.parametrize("format_", ["webp", "gif"])
    def test_it_repeats_for_ever(self, sources: list[str], tmp_path: Path, format_: str) -> None:
        render(animation(sources, tmp_path / "out", format=format_))
        with Image.open(tmp_path / "out") as made:
            assert made.format == format_.upper()
            assert made.info["loop"] == 0

    @pytest.mark.parametrize(
        ("format_", "fps", "expected"),
        [
            ("webp", 10, [100, 100]),
            ("webp", 3, [333, 334]),
            ("webp", 60, [17, 16]),
            ("gif", 10, [100, 100]),
            ("gif", 3, [330, 340]),
            ("gif", 60, [20, 20]),
        ],
    )
    def test_frames_keep_the_pace_and_the_last_one_stays(
        self, sources: list[str], tmp_path: Path, format_: str, fps: int, expected: list[int]
    ) -> None:
        render(animation(sources, tmp_path / "out", format=format_, fps=fps))
        assert frames(tmp_path / "out")[1] == [*expected, 1500]
        assert LAST_FRAME_MS == 1500

    def test_rounding_to_hundredths_does_not_make_a_gif_slower_or_faster(
        self, sources: list[str], tmp_path: Path
    ) -> None:
        render(animation(sources * 10, tmp_path / "out.gif", format="gif", fps=30, steps=list(range(30))))
        durations = frames(tmp_path / "out.gif")[1]
        assert len(durations) == 30
        assert sum(durations[:-1]) == pytest.approx(29_000 / 30, abs=5)

    @pytest.mark.parametrize("format_", ["webp", "gif"])
    def test_the_strip_shows_the_step_and_the_image_does_not_change(
        self, grid: Grid, tmp_path: Path, format_: str
    ) -> None:
        same = str(grid("a.png", BLUE))
        render(animation([same, same], tmp_path / "out", format=format_, steps=[7, 12_000]))
        (first, second), _ = frames(tmp_path / "out")
        assert np.abs(first[:96] - second[:96]).max() < 8
        text = [np.flatnonzero(frame[97:].max(axis=(0, 2)) > 100) for frame in (first, second)]
        assert text[0].min() == text[1].min() >= 4
        assert text[1].max() > text[0].max() + 15

    def test_a_grid_narrower_than_its_label_is_centered(self, grid: Grid, tmp_path: Path) -> None:
        source = str(grid("a.png", RED, size=(8, 8)))
        render(animation([source], tmp_path / "out", format="gif", steps=[123_456_789]))
        ((frame,), _) = frames(tmp_path / "out")
        width = frame.shape[1]
        assert width > 80
        columns = np.flatnonzero(frame[:8].max(axis=(0, 2)) > 100)
        assert (len(columns), columns.min()) == (8, (width - 8) // 2)
        assert frame[9:, -4:].max() < 50

    def test_larger_grids_are_shrunk_to_max_side(self, grid: Grid, tmp_path: Path) -> None:
        source = str(grid("a.png", RED, size=(400, 200)))
        render(animation([source], tmp_path / "out", max_side=100))
        assert frames(tmp_path / "out")[0][0].shape == (50 + 24, 100, 3)

    def test_smaller_grids_are_not_enlarged_to_max_side(self, sources: list[str], tmp_path: Path) -> None:
        render(animation(sources, tmp_path / "out", max_side=640))
        assert frames(tmp_path / "out")[0][0].shape == (120, 96, 3)

    def test_all_frames_of_a_gif_share_one_palette(self, sources: list[str], tmp_path: Path) -> None:
        render(animation(sources, tmp_path / "out.gif", format="gif"))
        assert local_palettes((tmp_path / "out.gif").read_bytes()) == [False, False, False]

    def test_unchanged_pixels_do_not_flicker_in_a_gif(self, grid: Grid, tmp_path: Path) -> None:
        ramp = np.tile(np.arange(96, dtype=np.uint8)[:, None, None], (1, 96, 3)) * np.array([2, 1, 2], dtype=np.uint8)
        changed = ramp.copy()
        changed[:, 60:] = np.random.default_rng(4).integers(0, 256, (96, 36, 3))
        sources = [str(grid("a.png", ramp)), str(grid("b.png", changed))]
        render(animation(sources, tmp_path / "out.gif", format="gif"))
        (first, second), _ = frames(tmp_path / "out.gif")
        assert np.array_equal(first[:96, :60], second[:96, :60])
        assert not np.array_equal(first[:96, 60:], second[:96, 60:])

    def test_the_palette_covers_both_ends_of_a_long_animation(self, grid: Grid, tmp_path: Path) -> None:
        greys = [str(grid(f"{level}.png", (level, level, level))) for level in range(60, 160, 3)]
        sources = [*greys, str(grid("end.png", BLUE))]
        render(animation(sources, tmp_path / "out.gif", format="gif"))
        shown, _ = frames(tmp_path / "out.gif")
        assert len(shown) == 35
        assert shown[-1][2:94, 2:94].mean(axis=(0, 1)) == pytest.approx(BLUE, abs=6)
        assert shown[0][2:94, 2:94].mean(axis=(0, 1)) == pytest.approx((60, 60, 60), abs=6)


class TestSameBytes:
    @pytest.mark.parametrize("change", [{"format": "webp"}, {"format": "gif"}])
    def test_an_animation_is_the_same_in_every_process(
        self, sources: list[str], tmp_path: Path, change: dict[str, str]
    ) -> None:
        for name in ("1", "2"):
            finished = command(animation(sources, tmp_path / name, **change), PYTHONHASHSEED=name)
            assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()

    def test_a_thumbnail_is_the_same_in_every_process(self, grid: Grid, tmp_path: Path) -> None:
        source = grid("a.png", np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8))
        for name in ("1", "2"):
            assert command(thumbnail(source, tmp_path / name), PYTHONHASHSEED=name).returncode == 0
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


class TestRefusals:
    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ("no json", "request: expected JSON"),
            ("[]", "request: expected an object, got list"),
            ("{}", "kind: expected one of thumbnail, animation, got None"),
            ('{"kind": ["thumbnail"]}', "kind: expected one of"),
            ('{"kind": "thumbnail"}', "thumbnail: expected the fields kind, output, source, width, got kind"),
        ],
    )
    def test_an_invalid_request_is_rejected(self, request_: str, message: str) -> None:
        assert message in refusal(request_)

    def test_an_unknown_field_is_rejected(self, grid: Grid, tmp_path: Path) -> None:
        message = refusal(thumbnail(grid("a.png"), tmp_path / "out.png", quality=3))
        assert message.endswith("got kind, output, quality, source, width")

    @pytest.mark.parametrize("width", [0, 65, -64, True, 64.0, "64", None])
    def test_widths_are_those_on_the_list(self, grid: Grid, tmp_path: Path, width: Any) -> None:
        with pytest.raises(CannotRender, match=r"width: expected one of 64, 128, 256, 512, got"):
            render(thumbnail(grid("a.png"), tmp_path / "out.png", width))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "png"}, "format: expected one of webp, gif, got 'png'"),
            ({"fps": 0}, "fps: expected 1 to 60 frames per second, got 0"),
            ({"fps": 61}, "fps: expected"),
            ({"fps": 2.5}, "fps: expected"),
            ({"fps": True}, "fps: expected"),
            ({"max_side": 0}, "max_side: expected pixels or null, got 0"),
            ({"max_side": "640"}, "max_side: expected"),
            ({"sources": []}, "sources: expected a list of at least one path"),
            ({"sources": "a.png"}, "sources: expected"),
            ({"sources": ["a.png", 3, "b.png"]}, "sources: expected"),
            ({"steps": [0, 100]}, "steps: expected 3 increasing integers from 0, got [0, 100]"),
            ({"steps": [0, 200, 100]}, "steps: expected"),
            ({"steps": [0, 100, 100]}, "steps: expected"),
            ({"steps": [-1, 0, 1]}, "steps: expected"),
            ({"steps": [0, 1.5, 2]}, "steps: expected"),
            ({"steps": None}, "steps: expected"),
            ({"output": ""}, "output: expected a path, got ''"),
            ({"output": None}, "output: expected"),
        ],
    )
    def test_a_value_out_of_range_is_named(
        self, sources: list[str], tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(CannotRender) as refused:
            render(animation(sources, tmp_path / "out.webp") | change)
        assert message in str(refused.value)

    def test_grids_of_different_sizes_are_rejected(self, sources: list[str], grid: Grid, tmp_path: Path) -> None:
        sources[2] = str(grid("wide.png", size=(97, 96)))
        with pytest.raises(CannotRender, match="got 96 x 96 and 97 x 96 at step 200"):
            render(animation(sources, tmp_path / "out.webp"))

    @pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff"])
    def test_only_png_is_read_whatever_the_file_is_called(self, grid: Grid, tmp_path: Path, name: str) -> None:
        source = grid(name).rename(tmp_path / "a.png")
        with pytest.raises(CannotRender, match=r"source a\.png: expected a PNG"):
            render(thumbnail(source, tmp_path / "out.png"))

    @pytest.mark.parametrize("keep", [0, 7, 40, 1000, -40])
    def test_a_truncated_grid_is_refused(self, grid: Grid, tmp_path: Path, keep: int) -> None:
        source = grid("a.png", np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        source.write_bytes(source.read_bytes()[:keep])
        with pytest.raises(CannotRender, match=r"source a\.png: expected a PNG"):
            render(thumbnail(source, tmp_path / "out.png"))

    def test_damaged_bytes_never_crash_the_command(self, grid: Grid, tmp_path: Path) -> None:
        rng = np.random.default_rng(3)
        source = grid("a.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        whole = source.read_bytes()
        refused = 0
        for position in range(8, len(whole), 3):
            source.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
            try:
                render(thumbnail(source, tmp_path / "out.png"))
            except CannotRender:
                refused += 1
        assert refused > 50

    def test_a_grid_above_the_pixel_limit_is_rejected_before_decoding(self, tmp_path: Path) -> None:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        header = struct.pack(">IIBBBBB", 8192, 8193, 8, 2, 0, 0, 0)
        png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
        message = refusal(thumbnail(tmp_path / "bomb.png", tmp_path / "out.png"))
        assert "bomb.png: expected a PNG of at most 67108864 pixels; DecompressionBomb" in message

    def test_messages_name_files_without_their_folders(self, sources: list[str], tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("no image")
        (tmp_path / "file").write_text("no folder")
        for request in (
            thumbnail(tmp_path / "absent.png", tmp_path / "out.png"),
            thumbnail(tmp_path / "text.png", tmp_path / "out.png"),
            animation([*sources, str(tmp_path / "absent.png")], tmp_path / "out.webp"),
            animation(sources, tmp_path / "file" / "out.webp"),
        ):
            message = refusal(request)
            assert str(tmp_path) not in message
            assert any(name in message for name in ("absent.png", "text.png", "out.webp"))

    def test_an_existing_output_stays_if_rendering_fails(self, tmp_path: Path) -> None:
        (tmp_path / "out.png").write_bytes(b"before")
        refusal(thumbnail(tmp_path / "absent.png", tmp_path / "out.png"))
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.png", b"before")]


class TestProcess:
    def test_it_starts_with_little_more_than_the_picture_library(self) -> None:
        names = "{name.partition('.')[0] for name in sys.modules}"
        script = f"import sys, server.images.render; sys.stdout.write(' '.join({names}))"
        loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        heavy = {"torch", "numpy", "scipy", "pydantic", "fastapi", "sqlalchemy", "asyncio", "typer", "rich"}
        assert set(loaded.stdout.split()) & heavy == set()
        assert {"PIL", "server"} <= set(loaded.stdout.split())

    def test_it_runs_at_a_lower_priority_than_training(self, grid: Grid, tmp_path: Path) -> None:
        script = "import os, sys, server.images.render; server.images.render.main(); sys.stdout.write(str(os.nice(0)))"
        request = json.dumps(thumbnail(grid("a.png"), tmp_path / "out.png"))
        finished = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, input=request, capture_output=True, text=True, check=True
        )
        assert int(finished.stdout) == min(19, os.nice(0) + 10)
