"""Kaldi-style data dirs: read, write, check, combine, pack; and the embeddings made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from farvox.options import AtLeast, AtMost, Metavar, Options


@dataclass(frozen=True, kw_only=True)
class PackOptions(Options):
    """Options of packing."""

    codec: Literal["wav", "flac"] = "wav"
    """Format in the shards: wav (16-bit), or flac for about half the bytes."""
    shard_size: Annotated[float, AtLeast(0.001), AtMost(1e6)] = 1000.0
    """Megabytes of 16-bit samples in a shard, counted for one channel."""
    exact: bool = False
    """Refuse recordings that 16 bits do not hold; by default they are rounded."""
    skip_bad: bool = False
    """Leave out recordings that cannot be read, and list them in OUT/rejected.tsv."""
    at: Annotated[str | None, Metavar("URL")] = None
    """Move the shards to the folder of this URL (s3://bucket/corpus), and name them there."""
    remote: bool = False
    """Reach audio on other machines (URLs in a wav.scp), which is refused otherwise."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Processes; by default as many as the machine has processors."""


@dataclass(frozen=True, kw_only=True)
class AudioCheckOptions(Options):
    """Options of a check of the audio."""

    digests: bool = False
    """With --audio: read every file, keep its SHA-256, and compare it with that of an earlier check."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Processes; by default as many as the machine has processors."""
