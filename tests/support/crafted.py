"""A whole run directory, and the ways in which somebody may have changed one of its files."""

import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import canonical_json, sha256_bytes, write_json
from gan_mhe.records import events
from gan_mhe.records.recorder import Recorder
from gan_mhe.records.run_dir import RunDir

STEPS = 20
SHA256 = "f" * 64
SCORES = {"inception_score": 7.5, "fid": 30.0}
TENSORS = b"tensors"
_PLACE = "\x01here\x01"

RAW = (b"", b"[]", b"null", b"{", b'"', b"\xff\xfe\x00", b"[" * 100_000, b'{"a":1,"a":2}')
VALUES = (
    *("NaN", "1e999", "1e308", "-1e308", "9" * 25, "9" * 5000, "-1", "0", "1", "1.5", "true", "null", "[]", "{}"),
    *('""', '"x"', '"NaN"', r'"\u0000"', r'"\ud800"', r'"a\r\nb: c"', '"../../etc/passwd"', '[[1], {"a": null}]'),
    *('{"a": 1, "a": "b"}', '"' + "x" * 10_000 + '"', "[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000),
    *(json.dumps(dict.fromkeys(map(str, range(2000)), 1.0)), '{"inception_score": 1e308}', '{"step": 1, "scores": {}}'),
)


def png(width: int = 3, height: int = 2) -> bytes:
    """A picture of black pixels whose header states these sizes; the pixels are those of 3 x 2."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0\0\0" * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_run(root: Path, *, seed: int = 0, variant: str = "mhe", score: float = 7.5) -> RunDir:
    """A completed run with every file that a run can have."""
    run = RunDir(root)
    config = RunConfig.model_validate({"variant": variant, "seed": seed, "training": {"steps": STEPS}})
    scores = {**SCORES, "inception_score": score}
    write_json(run.config, config.document())
    write_json(run.environment, {"python": "3.11", "packages": {"torch": "2"}, "device": "cpu", "command": ["x"]})
    data = {"name": "digits", "split": "train", "images": 9, "classes": {"0": 9}, "passed_over": {}, "conversions": {}}
    write_json(run.data, data | {"sha256": SHA256})
    write_json(run.scorer, {"protocol": "digits-v1", "weights_sha256": SHA256})
    run.samples.mkdir()
    run.sample(0).write_bytes(png())
    save_checkpoint(run.checkpoint(STEPS), config)
    final = {"step": STEPS, "scores": scores}
    result = {"status": "completed", "step": STEPS, "variant": variant, "seed": seed, "digest": config.digest()}
    result |= {"protocol": "digits-v1", "fingerprints": dict.fromkeys(scores, SHA256), "metric": "inception_score"}
    result |= {"final": final, "best": final, "evaluations": 1, "real": SCORES, "train_seconds": 2.0, "message": ""}
    result |= {"curve": [final], "data": data | {"sha256": SHA256}, "weights_sha256": SHA256}
    write_json(run.result, result)
    with Recorder(run, []) as recorder:
        for event in _said(scores):
            recorder.emit(event)
    return run


def _said(scores: dict[str, float]) -> Iterator[events.Event]:
    yield events.Started(0, STEPS, resumed=False)
    yield events.Notice(0, "the penalty skips layer 7")
    yield events.SampleGrid(0, "samples/step_00000000.png", sha256_bytes(png()))
    yield events.Scalars(5, {"d_loss": 1.5, "g_loss": float("nan")})
    yield events.Progress(5, STEPS, 2.0, 128.0, 7.5)
    yield events.CheckpointRejected(5, 4, "manifest.json is damaged")
    yield events.CheckpointSaved(STEPS, "checkpoints/step_00000020", "c" * 64)
    yield events.Evaluated(STEPS, "final", scores, "digits-v1", dict.fromkeys(scores, SHA256), 1.0)
    yield events.Finished(STEPS, "completed", "")


def save_checkpoint(directory: Path, config: RunConfig) -> None:
    directory.mkdir(parents=True)
    (directory / "tensors.safetensors").write_bytes(TENSORS)
    manifest = {"format": 1, "step": STEPS, "lineage": config.digest("resumable"), "notes": {"train_seconds": 1.0}}
    seal(directory / "manifest.json", manifest | {"tensors_sha256": sha256_bytes(TENSORS)})


def seal(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the hash of what it says."""
    write_json(path, manifest | {"sha256": sha256_bytes(canonical_json(manifest))})


def damage(draw: st.DrawFn, run: RunDir) -> str:
    """Change one file of a run; returns what was done."""
    files = sorted(path for path in run.root.rglob("*") if path.is_file() and path.suffix != ".txt")
    path = draw(st.sampled_from(files))
    ways = [_replace, _cut, _alter]
    ways += [_edit] * 4 if path.suffix in (".json", ".jsonl") else []
    ways += [_resize] if path.suffix == ".png" else []
    way = draw(st.sampled_from(ways))
    return f"{run.relative(path)}: {way(draw, path)}"


def _replace(draw: st.DrawFn, path: Path) -> str:
    path.unlink()
    content = draw(st.sampled_from([None, "folder", *RAW]))
    if isinstance(content, bytes):
        path.write_bytes(content + b"\n" * (path.suffix == ".jsonl"))
    elif content == "folder":
        path.mkdir()
    return f"replaced by {content if content is None else content[:20]!r}"


def _cut(draw: st.DrawFn, path: Path) -> str:
    content = path.read_bytes()
    length = draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:length])
    return f"cut to {length} bytes"


def _alter(draw: st.DrawFn, path: Path) -> str:
    content = bytearray(path.read_bytes())
    index, value = draw(st.integers(0, len(content) - 1)), draw(st.integers(0, 255))
    content[index] = value
    path.write_bytes(content)
    return f"byte {index} is {value}"


def _resize(draw: st.DrawFn, path: Path) -> str:
    """Let the grid state another size, and the journal the hash of this grid."""
    sides = st.sampled_from([0, 1, 2**13, 2**16, 2**32 - 1])
    width, height = draw(sides), draw(sides)
    path.write_bytes(png(width, height))
    journal = path.parents[1] / "events.jsonl"
    journal.write_text(journal.read_text().replace(sha256_bytes(png()), sha256_bytes(png(width, height))))
    return f"states {width} x {height}"


def _edit(draw: st.DrawFn, path: Path) -> str:
    """Put another value, or none, or a second one, in the place of one value of the JSON document or line."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw(st.integers(0, len(lines) - 1))
    document = json.loads(lines[number])
    holder, key = draw(st.sampled_from(list(_places(document))))
    value = draw(st.sampled_from([None, *VALUES]))
    if value is None:
        del holder[key]
    else:
        holder[key] = _PLACE
    if path.name == "manifest.json" and value is None:
        document.pop("sha256", None)
        seal(path, document)
        return f"{key} deleted, sealed"
    text = json.dumps(document).replace(json.dumps(_PLACE), value or "")
    lines[number] = text
    path.write_text("\n".join(lines) + "\n" * (path.suffix == ".jsonl"))
    return f"value {number}, {key} = {'nothing' if value is None else value[:40]}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """The values in a document, as a table or list and a key or index."""
    for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(child, dict | list):
            yield from _places(child)


def copy(source: Path, target: Path) -> RunDir:
    """A copy of a run."""
    shutil.copytree(source, target)
    return RunDir(target)
