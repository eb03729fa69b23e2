"""The x-vector time-delay network (Snyder et al., "X-vectors: robust DNN embeddings", ICASSP 2018).

Shape suffixes: B utterance, M mel, F frame, E embedding.
"""

from __future__ import annotations

from torch import Tensor, nn

from farvox.models.base import EmbeddingNetwork
from farvox.models.options import XVectorOptions
from farvox.models.pooling import build_pooling

# (frames spanned by the kernel, dilation) of the five frame-level layers: table 1 of the paper.
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))


class XVector(EmbeddingNetwork):
    """Five time-delay layers, statistics over time, one affine layer.

    The embedding is the affine output of the first layer after the pooling, as in the paper; the
    layers the paper puts between it and the softmax are the business of a head here. As in Kaldi, a
    layer is affine, ReLU, batch norm without scale and offset. The layers do not pad: the network sees
    15 frames at once, and needs that many.
    """

    def __init__(self, options: XVectorOptions = XVectorOptions()) -> None:
        span = 1 + sum(dilation * (kernel - 1) for kernel, dilation in CONTEXTS)
        super().__init__(options, min_frames=span)
        widths = (options.num_mels, *4 * [options.channels], options.pooled_channels)
        self.frames = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(width_in, width_out, kernel, dilation=dilation),
                    nn.ReLU(),
                    nn.BatchNorm1d(width_out, affine=False),
                )
                for width_in, width_out, (kernel, dilation) in zip(widths, widths[1:], CONTEXTS, strict=False)
            )
        )
        self.pool = build_pooling(options.pooling, options.pooled_channels)
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        emb_BE: Tensor = self.dropout(self.embedding(self.pool(self.frames(self.mels_first(feats_BFM)))))
        return emb_BE
