"""Recordings for schemathesis where the description asks for some: it could only guess bytes."""

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies

recordings = strategies.sampled_from(
    [path.read_bytes() for path in sorted(Path(os.environ["FARVOX_RECORDINGS"]).glob("*.wav"))]
)
schemathesis.openapi.format("binary", recordings)
schemathesis.openapi.media_type("audio/*", recordings)
schemathesis.openapi.media_type("application/octet-stream", recordings)
