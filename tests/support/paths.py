"""Files of the repository that tests look at."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
"""Stands in for `gan_mhe.worker`: behaves as its request says, without torch."""
