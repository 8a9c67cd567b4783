#!/usr/bin/env bash
# The loader of torchvision's ImageFolder turns 16-bit gray PNGs white, and keeps the high byte of 16-bit color ones.
#
# Date: 2026-11-28
# Version: Pillow 13.0.0
# Behavior: ImageFolder loads an image by Image.open(file).convert("RGB"). A gray PNG of 16 bits opens in mode I;16, and
#   the conversion clips at 255 instead of scaling: every level above 255 of 65,535 is white, so that a scan or a medical
#   image becomes a white square, and a data set of them one constant image. The same gray level with alpha, or as color,
#   opens in 8 bits and keeps its high byte. Nothing warns, and the opened image says nothing of its 16 bits.
# Seen: the level 0x8080, half of white: "gray 255, gray with alpha 128, color 128, color with alpha 128"; the level
#   0x01ff, 0.8 % of white: "gray 255, gray with alpha 1, color 1, color with alpha 1".
# Guess that misses: one level gives one brightness, whether a file stores it as gray or as color.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0
cd "$folder"
seen=$("$folder/venv/bin/python" - <<'PY'
import struct
import zlib

from PIL import Image

KINDS = {"gray": (0, 1), "gray with alpha": (4, 2), "color": (2, 3), "color with alpha": (6, 4)}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write(color_type, channels, level):
    line = b"\0" + struct.pack(f">{channels}H", *[level] * channels) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, color_type, 0, 0, 0)
    with open("image.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        file.write(chunk(b"IDAT", zlib.compress(line * 2)) + chunk(b"IEND", b""))


for level in (0x8080, 0x01FF):
    shown = []
    for kind, (color_type, channels) in KINDS.items():
        write(color_type, channels, level)
        with open("image.png", "rb") as file:
            shown.append(f"{kind} {Image.open(file).convert('RGB').getpixel((0, 0))[0]}")
    print(", ".join(shown))
PY
)
echo "$seen"
[ "$seen" = "gray 255, gray with alpha 128, color 128, color with alpha 128
gray 255, gray with alpha 1, color 1, color with alpha 1" ]
