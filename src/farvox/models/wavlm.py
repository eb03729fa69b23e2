"""WavLM in the place of mel filters (Chen et al., 2110.13900), with ECAPA-TDNN behind it.

WavLM comes through the library ``transformers`` (the extra ``ssl``). The input of ECAPA is the sum of the
hidden layers with learned weights (as in SUPERB, 2105.01051, and in the WavLM paper's speaker verification),
a frame every 20 ms, brought to zero mean and unit deviation over the utterance.

Shape suffixes: B utterance, T sample, F frame, M sample of a frame, L layer, D hidden feature, E embedding.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.errors import CheckpointError, MissingExtraError, ModelError
from farvox.manifest import read_weights, verify_file
from farvox.models.base import EmbeddingNetwork
from farvox.models.options import EcapaOptions, WavlmEcapaOptions
from farvox.models.tdnn import EcapaTdnn
from farvox.options import nearest, taken_from
from farvox.parsing import parse_json

FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "feat_extract_norm",
    "feat_extract_activation", "conv_dim", "conv_stride", "conv_kernel", "conv_bias",
    "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "num_buckets", "max_bucket_distance",
    "do_stable_layer_norm", "layer_norm_eps",
)  # fmt: skip
"""The fields of transformers' ``WavLMConfig`` that make a difference here."""

# Layers that are left out at random have no gradient, and a mask over time would be drawn by numpy's global
# generator, from which no run can be resumed; neither is wanted to tell speakers apart.
_FIXED = {
    "layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0,
    "add_adapter": False,
}  # fmt: skip
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"  # of transformers: whether waveforms are normalised
_MICROSOFT_FIELDS = {
    "encoder_layers": ("num_hidden_layers", 12), "encoder_embed_dim": ("hidden_size", 768),
    "encoder_ffn_embed_dim": ("intermediate_size", 3072),
    "encoder_attention_heads": ("num_attention_heads", 12), "activation_fn": ("hidden_act", "gelu"),
    "layer_norm_first": ("do_stable_layer_norm", False), "conv_bias": ("conv_bias", False),
    "dropout": ("hidden_dropout", 0.1), "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0), "dropout_input": ("feat_proj_dropout", 0.0),
    "conv_pos": ("num_conv_pos_embeddings", 128), "conv_pos_groups": ("num_conv_pos_embedding_groups", 16),
    "num_buckets": ("num_buckets", 320), "max_distance": ("max_bucket_distance", 1280),
}  # fmt: skip
"""Microsoft's settings: the field that each is here, and its value where a checkpoint leaves it out."""
_MICROSOFT_NAMES = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
_CONVOLUTIONS = re.compile(r"\[((?:\(\d{1,6},\d{1,6},\d{1,6}\),?)+)\](?:\*(\d{1,2}))?\+?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


class WavlmEcapa(EmbeddingNetwork):
    """WavLM, frozen or tuned, and ECAPA-TDNN on the weighted sum of its layers.

    Raises:
        ModelError: unknown fields, sizes that do not fit, or no such pretrained model.
        CheckpointError: pretrained weights are damaged or do not fit their configuration.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, options: WavlmEcapaOptions = WavlmEcapaOptions()) -> None:
        folder = _find_pretrained(options.wavlm) if isinstance(options.wavlm, str) else None
        sizes = _read_sizes(folder) if folder else options.wavlm or {}
        if not isinstance(sizes, Mapping):
            raise ModelError(
                f"wavlm = {sizes!r}: give a table of sizes, a folder or a name of huggingface.co"
            )
        for key in sizes:
            if key not in FIELDS:
                hint = nearest(key, FIELDS) or f"; there are: {', '.join(FIELDS)}"
                raise ModelError(f"wavlm has no field '{key}'{hint}")
        library = _require("transformers.models.wavlm.modeling_wavlm")
        try:
            backbone = library.WavLMModel(library.WavLMConfig(**sizes, **_FIXED))
        except Exception as error:  # which kind it is depends on the version of the library
            raise ModelError(f"no WavLM can be built with {dict(sizes)}: {error}") from error
        config = backbone.config
        samples = samples_for(2, config.conv_kernel, config.conv_stride)
        super().__init__(options, min_frames=-(-samples // options.num_mels))
        if folder:
            _load_pretrained(backbone, folder / WEIGHTS)
            if verify_file(folder / PREPROCESSOR) or (folder / PREPROCESSOR).is_file():
                is_normed = parse_json((folder / PREPROCESSOR).read_text("utf-8")).get("do_normalize", True)
                self.trained_mean = "utterance" if is_normed else "none"
        values = {name: getattr(config, name) for name in FIELDS}
        self.sizes = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        self.tune = options.tune
        self.backbone = backbone.requires_grad_(options.tune)
        if not options.tune_extractor:
            backbone.feature_extractor._freeze_parameters()
        self.layer_weights_L = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.ecapa = EcapaTdnn(taken_from(EcapaOptions, options, num_mels=config.hidden_size))

    def train(self, mode: bool = True) -> WavlmEcapa:
        """Training mode for all but a frozen WavLM."""
        super().train(mode)
        if not self.tune:
            self.backbone.eval()
        return self

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed a waveform in frames: [B, F, M] to [B, E]."""
        wav_BT = self.mels_first(feats_BFM).transpose(1, 2).flatten(1)
        with torch.set_grad_enabled(self.tune and torch.is_grad_enabled()):
            layers = hidden_layers(self.backbone, wav_BT)
        weights_L = fn.softmax(self.layer_weights_L, dim=0)
        mixed_BFD = sum(weight * layer for weight, layer in zip(weights_L, layers, strict=True))
        assert isinstance(mixed_BFD, Tensor)
        with torch.autocast(mixed_BFD.device.type, enabled=False):  # zero mean and unit deviation over time
            centred_BFD = mixed_BFD.float() - mixed_BFD.float().mean(dim=1, keepdim=True)
            normed_BFD = centred_BFD * torch.rsqrt(centred_BFD.square().mean(dim=1, keepdim=True) + 1e-5)
        emb_BE: Tensor = self.ecapa(normed_BFD)
        return emb_BE

    def kwargs_to_save(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """With the sizes of WavLM in place of its source, so that a saved model needs no other to load."""
        return {**kwargs, "wavlm": self.sizes}


def hidden_layers(backbone: Any, wav_BT: Tensor) -> list[Tensor]:
    """The input of WavLM's transformer and the output of each of its layers.

    They are transformers' ``hidden_states``, which hooks gather there, and extraction has several threads.
    The last is also normalised where the transformer ends in a layer norm (WavLM Large), so that the norm is
    in use.

    Returns:
        L layers BFD, one more than the transformer has.
    """
    encoder = backbone.encoder
    has_last_norm = backbone.config.do_stable_layer_norm  # WavLM Large
    x_BFD, _ = backbone.feature_projection(backbone.feature_extractor(wav_BT).transpose(1, 2))
    x_BFD = x_BFD + encoder.pos_conv_embed(x_BFD)
    x_BFD = encoder.dropout(x_BFD if has_last_norm else encoder.layer_norm(x_BFD))
    layers, position_bias = [x_BFD], None
    for number, layer in enumerate(encoder.layers):
        x_BFD, position_bias = layer(x_BFD, position_bias=position_bias, index=number)
        layers.append(x_BFD)
    if has_last_norm:
        layers[-1] = encoder.layer_norm(layers[-1])
    return layers


def samples_for(num_frames: int, kernels: list[int], strides: list[int]) -> int:
    """The fewest samples of which a stack of convolutions makes ``num_frames`` frames."""
    size = num_frames
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        size = (size - 1) * stride + kernel
    return size


def from_microsoft(
    config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn Microsoft's WavLM (``WavLM-Large.pt``, github.com/microsoft/unilm) into the form of transformers.

    Args:
        config: the entry ``cfg`` of the checkpoint.
        weights: its entry ``model``.

    Returns:
        The content of ``config.json``, and the weights by the names of transformers.

    Raises:
        ModelError: a WavLM that transformers does not have, or that differs from these settings.
    """
    sizes = {ours: config.get(theirs, default) for theirs, (ours, default) in _MICROSOFT_FIELDS.items()}
    for key in ("relative_position_embedding", "gru_rel_pos"):
        if not config.get(key, False):
            raise ModelError(f"a WavLM without {key}, which transformers does not have")
    if "post_extract_proj.weight" not in weights:
        raise ModelError("a WavLM whose convolutions have as many channels as its transformer")
    text = config.get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
    text = re.sub(r"\s", "", str(text))
    if _CONVOLUTIONS.sub("", text):
        raise ModelError(
            f"conv_feature_layers = '{text[:80]}' is not a sum of lists (channels, kernel, stride)"
        )
    layers = [
        tuple(map(int, layer))
        for group, times in _CONVOLUTIONS.findall(text)
        for layer in re.findall(r"(\d+),(\d+),(\d+)", group) * int(times or 1)
    ]
    columns = zip(("conv_dim", "conv_kernel", "conv_stride"), zip(*layers, strict=True), strict=True)
    sizes |= {name: list(column) for name, column in columns}
    norms = {"default": "group", "layer_norm": "layer"}
    if (mode := config.get("extractor_mode", "default")) not in norms:
        raise ModelError(f"a WavLM with extractor_mode = '{mode}', which is neither of {', '.join(norms)}")
    sizes["feat_extract_norm"] = norms[mode]
    ours = {}
    for name, tensor in weights.items():
        for pattern, replacement in _MICROSOFT_NAMES:
            name = re.sub(pattern, replacement, name)
        ours[_of_torch(name)] = tensor
    library = _require("transformers.models.wavlm.modeling_wavlm")
    with torch.device("meta"):
        wanted = library.WavLMModel(library.WavLMConfig(**sizes)).state_dict()
    found, expected = ({name: each.shape for name, each in some.items()} for some in (ours, wanted))
    if found != expected:
        odd = sorted({name for name, _ in found.items() ^ expected.items()})
        raise ModelError(
            f"not a WavLM of these settings: {len(odd)} weights are missing, unknown or of another shape,"
            f" {odd[0]} for one"
        )
    return {"model_type": "wavlm", "architectures": ["WavLMModel"], **sizes}, ours


def _of_torch(name: str) -> str:
    """A name of transformers with the weight norm as torch has it now."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        name = re.sub(rf"\.conv\.{old}$", f".conv.parametrizations.weight.{new}", name)
    return name


def _find_pretrained(name: str) -> Path:
    """The folder of a pretrained WavLM: one that is there, or huggingface.co's, fetched the first time."""
    if (folder := Path(name)).is_dir():
        if absent := [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]:
            raise ModelError(f"wavlm = '{name}': the folder has no {' and no '.join(absent)}; {_REMEDY}")
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"wavlm = '{name}': no such folder, and not a name of huggingface.co (ORG/NAME); {_REMEDY}"
        )
    hub = _require("huggingface_hub")
    repository, _, revision = name.partition("@")
    try:
        fetch = partial(hub.hf_hub_download, repository, revision=revision or None)
        paths = [fetch(file) for file in (CONFIG, WEIGHTS)]
    except Exception as error:
        raise ModelError(
            f"wavlm = '{name}': no such folder here, and huggingface.co does not give it: {error}; {_REMEDY}"
        ) from error
    return Path(paths[-1]).parent


_REMEDY = (
    "weights are read as safetensors only: make a folder of them of Microsoft's file with "
    "'farvox import WavLM-Large.pt FOLDER --arch wavlm', or of transformers' pickled weights, where you "
    "trust them, with WavLMModel.from_pretrained(NAME).save_pretrained(FOLDER)"
)


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        needed = error.name or name.partition(".")[0]
        raise MissingExtraError(f"WavLM needs {needed}: pip install 'farvox[ssl]'") from error


def _read_sizes(folder: Path) -> dict[str, Any]:
    """The `FIELDS` of a pretrained WavLM's ``config.json``."""
    path = folder / CONFIG
    try:
        verify_file(path)
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "wavlm":
        raise ModelError(f"{path}: not the configuration of a WavLM ('model_type' is not 'wavlm')")
    return {key: config[key] for key in FIELDS if key in config}


def _load_pretrained(backbone: Any, path: Path) -> None:
    """Fill ``backbone`` from a safetensors file; weights of a head or of pre-training are left aside.

    Names may begin with that of a model around WavLM, and a weight norm may have torch's old names.
    """
    weights = {_of_torch(name).removeprefix("wavlm."): each for name, each in read_weights(path).items()}
    wanted = backbone.state_dict()
    wrong = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape] or [
        name for name in wanted if not torch.isfinite(weights[name]).all()
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: does not fit the config.json beside it: {len(wrong)} of {len(wanted)} weights are "
            f"missing, of another shape or not finite, {wrong[0]} for one"
        )
    backbone.load_state_dict({name: weights[name] for name in wanted})
