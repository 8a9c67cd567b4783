"""How the content of one file becomes 8-bit RGB: values, rules and refusals. PNGs of 16 bits are written by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_mhe.data.decode import UnusableError, WrongSizeError, decode

GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # color types of PNG
CHANNELS = {GRAY: 1, RGB: 3, GRAY_ALPHA: 2, RGB_ALPHA: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, color_type: int, *, depth: int = 16, extra: bytes = b"") -> bytes:
    """A PNG of samples (H, W, C)."""
    height, width, _ = samples.shape
    rows = samples.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def levels() -> np.ndarray:
    """8 x 8 gray levels of 16 bits; the first row has values where rounding and the high byte differ."""
    samples = np.random.default_rng(0).integers(0, 65536, (8, 8, 1))
    samples[0, :, 0] = [0, 128, 129, 255, 32639, 32640, 65407, 65535]
    return samples


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def why_unusable(content: bytes, image_size: int = 8) -> str:
    with pytest.raises(UnusableError) as caught:
        decode(content, image_size, crop=False)
    return str(caught.value)


# --- 16 bits


def test_gray_of_sixteen_bits_is_scaled_to_the_nearest_of_eight() -> None:
    decoded = decode(png(levels(), GRAY), 8, crop=False)
    assert np.array_equal(decoded.pixels, np.floor(levels()[..., [0, 0, 0]] * 255 / 65535 + 0.5))
    assert decoded.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 127, 127, 255, 255]
    assert decoded.conversions == ("16 bits scaled to 8",)


def test_equal_grays_of_eight_and_sixteen_bits_become_equal() -> None:
    shallow, deep = (
        decode(png(noise(8, 8, 1) * np.int64(k), GRAY, depth=d), 8, crop=False) for k, d in ((1, 8), (257, 16))
    )
    assert np.array_equal(shallow.pixels, noise(8, 8, 1)[..., [0, 0, 0]])
    assert np.array_equal(deep.pixels, shallow.pixels)
    assert shallow.conversions == ()


def test_a_transparent_gray_of_sixteen_bits_is_dropped() -> None:
    transparent = chunk(b"tRNS", struct.pack(">H", levels()[0, 1, 0]))
    decoded = decode(png(levels(), GRAY, extra=transparent), 8, crop=False)
    assert np.array_equal(decoded.pixels, decode(png(levels(), GRAY), 8, crop=False).pixels)
    assert decoded.conversions == ("16 bits scaled to 8", "alpha dropped")


def test_gray_of_sixteen_bits_is_cropped_like_others() -> None:
    wide = np.zeros((8, 12, 1), dtype=np.int64)
    wide[:, 2:10] = levels()
    cropped, narrow = decode(png(wide, GRAY), 8, crop=True), decode(png(levels(), GRAY), 8, crop=False)
    assert np.array_equal(cropped.pixels, narrow.pixels)


@pytest.mark.parametrize("color_type", [RGB, GRAY_ALPHA, RGB_ALPHA])
@pytest.mark.parametrize("crop", [False, True])
def test_color_or_alpha_of_sixteen_bits_is_refused_rather_than_cut_to_the_high_byte(
    color_type: int, crop: bool
) -> None:
    samples = np.repeat(levels(), CHANNELS[color_type], axis=2)
    with pytest.raises(UnusableError, match="16 bits per channel and color or alpha; convert it to 8 bits"):
        decode(png(samples, color_type), 8, crop=crop)


@pytest.mark.parametrize("color_type", [RGB, GRAY_ALPHA, RGB_ALPHA])
def test_color_and_alpha_of_eight_bits_are_read(color_type: int) -> None:
    samples = noise(8, 8, CHANNELS[color_type])
    colors = samples[..., [0, 0, 0]] if color_type == GRAY_ALPHA else samples[..., :3]
    assert np.array_equal(decode(png(samples, color_type, depth=8), 8, crop=False).pixels, colors)


def test_a_png_whose_header_is_not_first_is_refused() -> None:
    content = png(levels(), GRAY)
    assert "IHDR" in why_unusable(content[:8] + chunk(b"tEXt", b"a\0b") + content[8:])


# --- rules for modes


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_gray_levels_span_black_to_white(depth: int) -> None:
    most = 2**depth - 1
    packed = bytes([0b10000000]) if depth == 1 else bytes([most << (8 - depth)])
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, depth, GRAY, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress((b"\0" + packed) * 2)) + chunk(b"IEND", b"")
    assert decode(content, 2, crop=False).pixels[..., 0].tolist() == [[255, 0]] * 2


def test_colors_below_alpha_are_kept_as_stored() -> None:
    pixels = np.concatenate([noise(8, 8, 3), np.zeros((8, 8, 1), np.uint8)], axis=2)
    decoded = decode(encoded(Image.fromarray(pixels)), 8, crop=False)
    assert np.array_equal(decoded.pixels, pixels[..., :3])
    assert decoded.conversions == ("alpha dropped",)


def test_a_palette_gives_its_colors() -> None:
    palette = Image.fromarray(noise(8, 8, 3)).quantize(16)
    decoded = decode(encoded(palette), 8, crop=False)
    assert np.array_equal(decoded.pixels, np.asarray(palette.convert("RGB")))
    assert decoded.conversions == ()


def test_cmyk_is_converted_without_its_profile() -> None:
    flat = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    decoded = decode(encoded(flat, "JPEG", quality=100), 8, crop=False)
    assert np.abs(decoded.pixels.astype(int) - [0, 255, 255]).max() <= 2
    assert decoded.conversions == ("CMYK without its profile",)


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 200
    decoded = decode(encoded(Image.fromarray(pixels), exif=exif), 8, crop=False)
    assert np.array_equal(decoded.pixels, pixels)
    assert decoded.conversions == ("EXIF orientation not applied",)


def test_an_upright_orientation_and_damaged_exif_count_for_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    for data in (exif, b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"):
        assert decode(encoded(Image.fromarray(noise(8, 8, 3)), exif=data), 8, crop=False).conversions == ()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("white", "black")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    decoded = decode(content, 8, crop=False)
    assert decoded.pixels.min() == 255
    assert "first of several frames" in decoded.conversions


# --- refusals


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM"])
def test_other_formats_are_refused_under_any_name(kind: str) -> None:
    assert (
        why_unusable(encoded(Image.fromarray(noise(8, 8, 3)), kind)) == "its content is not one of PNG, JPEG, BMP, WEBP"
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_tiff_of_more_than_eight_bits_is_refused(dtype: type) -> None:
    assert "not one of PNG" in why_unusable(encoded(Image.fromarray(np.ones((8, 8), dtype)), "TIFF"))


def test_another_size_is_reported_before_anything_is_decoded() -> None:
    with pytest.raises(WrongSizeError) as caught:
        decode(encoded(Image.new("RGB", (9, 8)))[:60], 8, crop=False)
    assert caught.value.size == (9, 8)
