"""A service in a process of its own, and requests to it."""

import http.client
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

TOKEN = "a-token-of-the-tests-only"


@dataclass
class Service:
    """A running ``farvox serve``."""

    port: int
    process: subprocess.Popen
    store: Path

    @property
    def num_sockets(self) -> int:
        """Number of connections that it has open, and the one that it listens at."""
        found = 0
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found += path.readlink().name.startswith("socket:")
        return found

    def connect(self, timeout: float = 120) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = TOKEN,
        connection=None,
        **headers,
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or text, and headers of an answer."""
        own = connection or self.connect()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            own.request(method, f"/v1/{path}", body, headers)
            answer = own.getresponse()
            content = answer.read()
            told = dict(answer.getheaders())
        finally:
            if connection is None:
                own.close()
        is_json = "json" in told.get("content-type", "")
        return answer.status, json.loads(content) if is_json else content.decode(), told

    def send(self, path: str, *files: tuple[str, bytes], **options) -> tuple[int, Any, dict[str, str]]:
        """Post files as multipart."""
        body, kind = multipart(files)
        return self.ask("POST", path, body, **options, **{"Content-Type": kind})


def multipart(files) -> tuple[bytes, str]:
    """Body and content type of files, each with the name of its field."""
    boundary = uuid.uuid4().hex
    lines = b"".join(
        b'--%s\r\ncontent-disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n'
        % (boundary.encode(), name.encode(), content)
        for name, content in files
    )
    return lines + b"--%s--\r\n" % boundary.encode(), f"multipart/form-data; boundary={boundary}"


def certificate(folder: Path) -> tuple[str, ...]:
    """The options of a server that shows a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    (folder / "cert.pem").write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return "--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")


@contextmanager
def serving(model: Path, folder: Path, *words: str) -> Iterator[Service]:
    """Start ``farvox serve``, and end it with the block."""
    folder.mkdir(exist_ok=True)
    token = folder / "token"
    token.write_text(TOKEN)
    store = folder / "speakers.sqlite"
    command = [sys.executable, "-m", "farvox", "serve", "--port", "0", "--token-file", str(token)]
    command += ["--model", str(model), "--vad", "off", "--store", str(store), *words]
    environment = {**os.environ, "FARVOX_KEYS": str(folder / "keys")}
    log = folder / "log"
    with log.open("wb") as err, subprocess.Popen(command, stderr=err, env=environment) as process:
        try:
            while not (found := re.search(rb"127\.0\.0\.1:(\d+)/v1/", log.read_bytes())):
                assert process.poll() is None, log.read_text()
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            yield Service(int(found[1]), process, store)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
