"""The verb that runs the service."""

from __future__ import annotations

import secrets

from farvox.cli.verify import EmbedderOptions, Store, open_store
from farvox.errors import MissingExtraError, UsageError
from farvox.progress import to_stderr
from farvox.service.options import ServeOptions


def serve(
    model: EmbedderOptions = EmbedderOptions(),
    options: ServeOptions = ServeOptions(),
    store: Store = None,
) -> None:
    """Answer over HTTP what verify, enrol, identify, speakers and forget answer.

    Args:
        model: the model, and what is asked of recordings.
        options: where to listen, and the limits.
        store: the file of enrolled speakers, if not the user's own.
    """
    token = secrets.token_urlsafe(24)
    if options.token_file is not None:
        try:
            token = options.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {options.token_file}: cannot be read: {error}") from None
        if len(token) < 20 or not token.isascii():
            raise UsageError(f"--token-file {options.token_file}: a token is 20 characters or more, in ASCII")
    try:
        from farvox.service.app import make_app
        from farvox.service.server import run
    except ImportError as error:
        raise MissingExtraError(
            f"the service needs packages that are not installed: pip install 'farvox[serve]' ({error})"
        ) from None
    from farvox.verifier import Verifier

    verifier = Verifier.from_pretrained(
        model.model,
        device=model.device,
        backend=model.backend,
        vad=model.vad,
        channel=model.channel_or_number,
        band=model.band,
        store=open_store(store),
    )
    if options.token_file is None:
        to_stderr(f"farvox serve: token of this run: {token}")
    run(make_app(verifier, options, token), options)
