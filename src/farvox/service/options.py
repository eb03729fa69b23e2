"""Options of the service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from farvox.errors import UsageError
from farvox.options import Above, AtLeast, Options

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_FILES = 16


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """Options of the service: the flags of `farvox serve`."""

    host: str = "127.0.0.1"
    """The address to listen at; one that others reach needs --token-file, and TLS or --behind-proxy."""
    port: Annotated[int, AtLeast(0)] = 8000
    """The port; 0: any that is free."""
    token_file: Path | None = None
    """A file with the token that enrol, identify, embed and the list of speakers ask for, of 20 characters or
    more; by default one is made at each start and printed."""
    tls_cert: Path | None = None
    """The certificate, and those that sign it, as PEM."""
    tls_key: Path | None = None
    """Its key, as PEM."""
    behind_proxy: bool = False
    """A proxy on the way encrypts what others send."""
    max_body_mb: Annotated[float, Above(0)] = 10.0
    """Largest body of a request."""
    max_seconds: Annotated[float, Above(0)] = 60.0
    """Longest recording."""
    decode_seconds: Annotated[float, Above(0)] = 5.0
    """Longest time to read one recording; then the process that does is ended."""
    body_seconds: Annotated[float, Above(0)] = 8.0
    """Longest time in which a body comes in, or an answer is read; then the connection is closed."""
    in_flight: Annotated[int, AtLeast(1)] = 32
    """Requests that are answered at a time; others get status 503."""
    workers: Annotated[int, AtLeast(1)] = 2
    """Processes that read recordings."""
    keep_days: Annotated[float | None, Above(0)] = None
    """Forget, once a day, whoever was enrolled more days ago."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key go together: give both")
        if self.host in LOOPBACK:
            return
        if self.token_file is None:
            raise UsageError(f"--host {self.host}: others reach this address, so give --token-file")
        if self.tls_cert is None and not self.behind_proxy:
            raise UsageError(
                f"--host {self.host}: others reach this address, and voices and tokens would pass in clear:"
                " give --tls-cert and --tls-key, or say --behind-proxy where a proxy encrypts them"
            )

    @property
    def max_body_bytes(self) -> int:
        """The largest body in bytes."""
        return int(self.max_body_mb * 1e6)
