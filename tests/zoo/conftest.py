"""A cache of the test's own, a small checkpoint of CAM++ as 3D-Speaker saves it, a hub on this machine."""

import functools
import http.server
import threading
from contextlib import contextmanager

import pytest
import torch

from farvox.models.registry import build_model
from farvox.zoo.foreign import LAYOUTS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """A CAM++ of few channels under the names that 3D-Speaker gives its weights."""
    torch.manual_seed(0)
    sizes = {"front_channels": 16, "channels": 16, "blocks": (1, 1, 1), "growth": 16, "bottleneck": 32}
    ours = build_model("campplus", **sizes, embedding_dim=24).state_dict()
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    torch.save({_their_name(name): tensor for name, tensor in ours.items()}, path)
    return path


def _their_name(ours):
    """The inverse of the layout's renames, for the names of the small network."""
    name = ours.replace("front.", "head.", 1) if ours.startswith("front.") else ours
    name = name.replace("downsample", "shortcut")
    if name.startswith("blocks."):
        _, block, part, *rest = name.split(".")
        block = int(block) + 1
        if part == "layers":
            inner = ".".join(rest[1:])
            for theirs, own in (
                ("nonlinear1.batchnorm.", "norm1."), ("linear1.", "conv1."),
                ("nonlinear2.batchnorm.", "norm2."),
                ("cam_layer.linear_local.", "conv2."), ("cam_layer.linear1.", "mask.squeeze."),
                ("cam_layer.linear2.", "mask.excite."),
            ):  # fmt: skip
                if inner.startswith(own):
                    inner = theirs + inner.removeprefix(own)
                    break
            name = f"xvector.block{block}.tdnnd{int(rest[0]) + 1}.{inner}"
        else:
            inner = {"norm": "nonlinear.batchnorm", "conv": "linear"}[part]
            name = f"xvector.transit{block}.{inner}.{'.'.join(rest)}"
    else:
        for own, theirs in (
            ("first.", "xvector.tdnn.linear."), ("first_norm.", "xvector.tdnn.nonlinear.batchnorm."),
            ("norm.", "xvector.out_nonlinear.batchnorm."), ("embedding.", "xvector.dense.linear."),
            ("embedding_norm.", "xvector.dense.nonlinear.batchnorm."),
        ):  # fmt: skip
            if name.startswith(own):
                name = theirs + name.removeprefix(own)
                break
    assert LAYOUTS["3dspeaker-campplus"].name(name) == ours
    return name


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@contextmanager
def serving(root):
    """A server on this machine that hands out a folder; its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that a server on this machine hands out, as both hubs: OWNER/NAME/resolve/REVISION/FILE."""
    root = tmp_path / "hub"
    root.mkdir()
    with serving(root) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield root
