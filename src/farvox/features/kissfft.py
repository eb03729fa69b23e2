"""The power spectrum of kaldi-native-fbank, rounding for rounding.

Any two FFTs in float32 differ in their last digits, and a filter that holds a millionth of its frame's energy
is made of little else. To agree there means to add and multiply in the same order. kaldi-native-fbank takes
its FFT from kissfft (M. Borgerding): decimation in time by four, then the even-odd split of a real signal,
twiddles rounded to float32. Its wheels for x86-64 are built with ``-ffast-math``, under which the compiler
opened some brackets: a + (b - c) became (a + b) - c. Their order is the one here.

Every step is one operation over all frames, frames innermost, so that a frame's result depends neither on
its neighbours nor on the machine.

Shape suffixes: N sample, K frequency bin, S frame; between stages C is (real, imaginary), R what later stages
join, Q the four parts that one stage joins, of which the first takes no twiddle.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class KissPower(nn.Module):
    """Power spectrum of real frames, by the arithmetic of kissfft.

    Args:
        size: samples in a frame, a power of two from 8 up.
    """

    twiddles_CKQ11: Tensor
    split_CK1: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_pairs = size // 2
        self.starts_with_two = self.num_pairs.bit_length() % 2 == 0
        self.joined = [2 if self.starts_with_two else 1]  # length of the transforms that each stage is given
        while 4 * self.joined[-1] < self.num_pairs:
            self.joined.append(4 * self.joined[-1])
        turns_KQ = np.concatenate([np.arange(n)[:, None] * np.arange(1, 4) / (4 * n) for n in self.joined])
        turns_K = np.arange(1, self.num_pairs // 2 + 1) / size + 0.25
        self.register_buffer("twiddles_CKQ11", _clockwise(turns_KQ)[..., None, None], persistent=False)
        self.register_buffer("split_CK1", _clockwise(turns_K)[..., None], persistent=False)

    def forward(self, frames_NS: Tensor) -> Tensor:
        """Squared magnitudes of bins 0 .. size / 2 - 1.

        Args:
            frames_NS: float32, a frame a column.

        Returns:
            power_KS float32, without the Nyquist bin.
        """
        z_CRS = frames_NS.reshape(self.num_pairs, 2, -1).transpose(0, 1)
        z_CKRS = z_CRS.unsqueeze(1)
        if self.starts_with_two:
            a_CRS, b_CRS = z_CRS.chunk(2, dim=1)
            z_CKRS = torch.stack([a_CRS + b_CRS, a_CRS - b_CRS], dim=1)
        for twiddles_CKQ11 in torch.split(self.twiddles_CKQ11, self.joined, dim=1):
            z_CKRS = _join_four(z_CKRS, twiddles_CKQ11)
        return self._power(z_CKRS.squeeze(2))

    def _power(self, z_CKS: Tensor) -> Tensor:
        """Power of a real signal from the spectrum of the complex one (even samples, odd samples)."""
        middle = self.num_pairs // 2
        (a_r, a_i), (b_r, b_i) = z_CKS[:, 1 : middle + 1], z_CKS[:, middle:].flip(1)
        cos_K1, sin_K1 = self.split_CK1
        even_r, even_i, gap_r, gap_i = a_r + b_r, a_i - b_i, a_r - b_r, a_i + b_i
        odd_rr, odd_ii, odd_i = gap_r * cos_K1, gap_i * sin_K1, gap_i * cos_K1 + gap_r * sin_K1
        lower_KS = _squared_half((even_r + odd_rr) - odd_ii, even_i + odd_i)
        upper_KS = _squared_half((even_r + odd_ii) - odd_rr, odd_i - even_i)
        lowest_1S = (z_CKS[0, :1] + z_CKS[1, :1]).square()
        return torch.cat([lowest_1S, lower_KS[:-1], upper_KS.flip(0)])


def _join_four(z_CKRS: Tensor, twiddles_CKQ11: Tensor) -> Tensor:
    """Four transforms of length K become one of length 4 K: [2, K, R, S] -> [2, 4 K, R / 4, S]."""
    _, num_bins, rest, num_frames = z_CKRS.shape
    z_CKQRS = z_CKRS.reshape(2, num_bins, 4, rest // 4, num_frames)
    a_r, a_i = z_CKQRS[:, :, 0]
    by_cos, by_sin = twiddles_CKQ11.unsqueeze(1) * z_CKQRS[:, :, 1:]
    (b_rr, c_rr, d_rr), (b_ii, c_ii, d_ii) = by_cos[0].unbind(1), by_sin[1].unbind(1)
    b_i, c_i, d_i = (by_cos[1] + by_sin[0]).unbind(1)
    b_r = b_rr - b_ii

    a_plus_c_r, a_plus_c_i = (a_r + c_rr) - c_ii, a_i + c_i
    a_less_c_r, a_less_c_i = (a_r + c_ii) - c_rr, a_i - c_i
    b_plus_d_r, b_plus_d_i = (b_r - d_ii) + d_rr, b_i + d_i
    b_less_d_r = (b_r - d_rr) + d_ii
    joined = [
        *(a_plus_c_r + b_plus_d_r, (a_less_c_r + b_i) - d_i),
        *(a_plus_c_r - b_plus_d_r, (a_less_c_r + d_i) - b_i),
        *(a_plus_c_i + b_plus_d_i, a_less_c_i - b_less_d_r),
        *(a_plus_c_i - b_plus_d_i, a_less_c_i + b_less_d_r),
    ]
    return torch.stack(joined).view(2, 4 * num_bins, rest // 4, num_frames)


def _squared_half(real: Tensor, imag: Tensor) -> Tensor:
    return (0.5 * real).square() + (0.5 * imag).square()


def _clockwise(turns: np.ndarray) -> Tensor:
    """(cos, sin) of so many turns back, computed in float64 and rounded."""
    angle = -2 * np.pi * turns
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32))
