"""Messages of processes name settings and jobs, and no path of the server."""

from pathlib import Path

import pytest

from server.queue.public_text import public_text
from server.settings import Settings

DATA = "/srv/gan data"


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with folders that need not exist."""
    monkeypatch.setenv("GAN_MHE_CACHE", "/var/cache/gan")
    roots = {"faces": Path("/mnt/images"), "old": Path("/mnt/images/old"), "near": Path("near")}
    return Settings(data_dir=Path(DATA), data_roots=roots, weights={"inception": Path("/opt/weights.pt")})


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f"{DATA}/jobs/job_1/run/checkpoints/step_4 is damaged", "job_1/run/checkpoints/step_4 is damaged"),
        (f"cannot write {DATA}/cursor.key: disk full", "cannot write GAN_MHE_DATA_DIR/cursor.key: disk full"),
        (
            "there is no file /var/cache/gan/scorers/x.safetensors",
            "there is no file GAN_MHE_CACHE/scorers/x.safetensors",
        ),
        ("data.root: /mnt/images is not a folder", "data.root: faces is not a folder"),
        ("data.root: no images in /mnt/images/old/train", "data.root: no images in old/train"),
        ("data.root: no images in /mnt/images-2/a.png", "data.root: no images in a.png"),
        ("no images in near/train, which is near", "no images in near/train, which is near"),
        (
            "/opt/weights.pt: expected SHA-256 67...; got SHA-256 ab",
            "inception: expected SHA-256 67...; got SHA-256 ab",
        ),
        ("[Errno 2] No such file: '/home/a b/secret c.txt'", "[Errno 2] No such file: 'secret c.txt'"),
        ("data.root: /nonexistent is not a folder", "data.root: nonexistent is not a folder"),
        ("cannot start ['/usr/bin/python3', '-m', 'x']", "cannot start ['python3', '-m', 'x']"),
        ("path=/a/b/c, (/d/e)", "path=c, (e)"),
        ("PYTHONPATH:/srv/secret/lib:/opt/x/y, file:///srv/secret/z", "PYTHONPATH:lib:y, z"),
        ("OSError:/srv/secret/x", "OSError:x"),
        ("12 images/s; see https://example.org/a/b and n/a", "12 images/s; see https://example.org/a/b and n/a"),
    ],
)
def test_a_path_becomes_the_name_by_which_a_client_knows_it(offered: Settings, message: str, shown: str) -> None:
    assert public_text(message, offered) == shown


def test_a_relative_cache_is_named_by_its_setting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_MHE_CACHE", "cache")
    assert public_text("no cache/scorers/x", settings) == "no GAN_MHE_CACHE/scorers/x"
    assert public_text("the cache is full", settings) == "the cache is full"
