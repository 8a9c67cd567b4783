"""Random numbers as a function of (seed, stream name, step), so that a resumed run draws the same numbers.

Neither these functions nor their callers use torch's global generators.
"""

import hashlib

import torch


def derive_seed(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed for one stream at one step: the first 63 bits of the SHA-256 of "seed/stream/step"."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A new generator on `device`, seeded with `derive_seed(seed, stream, step)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, stream, step))
