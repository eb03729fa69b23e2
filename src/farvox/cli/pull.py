"""``farvox pull``: pretrained models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from farvox.errors import UsageError


def pull(
    model: Annotated[Positional[str], arg(metavar="NAME|ADDRESS")],
    out: Annotated[Path | None, arg(metavar="OUT")] = None,
    arch: str | None = None,
    sha256: str = "",
) -> None:
    """Fetch a pretrained model, check it, and print the folder it lies in; once is enough.

    Any command pulls a model of the zoo by itself when it is first named. A checkpoint that the zoo does not
    know is fetched by its address: huggingface:OWNER/NAME[@REVISION]:FILE, or modelscope: likewise.

    Args:
        model: a name of the zoo ("farvox models" lists them), or an address.
        out: for an address: the model folder to write.
        arch: for an address: how the checkpoint is laid out, see "farvox import".
        sha256: for an address: what the file must hash to.
    """
    from farvox import zoo

    if zoo.is_address(model):
        if out is None or arch is None:
            raise UsageError("an address needs --out FOLDER and --arch NAME")
        found = zoo.pull_address(model, out, arch, sha256)
        if not sha256:
            print(f"not pinned; next time say --sha256 {found}", file=sys.stderr)
        print(out)
        return
    if out or arch or sha256:
        raise UsageError("--out, --arch and --sha256 go with an address, not with a name of the zoo")
    print(zoo.pull(model))
