"""Randomness as a function of (seed, stream name, step): resuming at a step draws what never stopping would draw.

No function here, and nothing that uses them, touches torch's global generators.
"""

import hashlib

import torch


def derive_seed(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed for one stream at one step: the first bytes of SHA-256 of the triple."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A fresh generator on `device`, seeded by `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, stream, step))
