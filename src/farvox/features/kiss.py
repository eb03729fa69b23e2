"""The Fourier transform of kaldi-native-fbank, rounding for rounding.

Shape suffixes: N sample of a frame, S frame, K frequency bin; inside a transform C (real, imaginary), R what
later stages join, Q the parts that one stage joins and takes twiddles to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_FRAMES = 64  # at a time: a CPU is twice as fast when what it works on stays in its cache


class KissPower(nn.Module):
    """Power spectrum of real frames as kaldi-native-fbank has it, rounding for rounding.

    Any two FFTs in float32 differ in their last digits; to agree there means to add and multiply in the same
    order. Theirs is kissfft (M. Borgerding): decimation in time by four, then the even-odd split of a real
    signal, twiddles rounded to float32. Their wheels for x86-64 are built with ``-ffast-math``, under which
    the compiler opened some brackets: a + (b - c) became (a + b) - c. That order is the one here.

    Every step is one operation over all frames, frames innermost (suffix S), so that a frame's result depends
    neither on its neighbours nor on the machine. Between stages C is (real, imaginary), R what later stages
    join, Q the parts that one stage joins and takes twiddles to.

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
        power_KS: Tensor = self._power_by(torch, frames_NS, self.twiddles_CKQ11, self.split_CK1)
        return power_KS

    def of_array(self, frames_NS: np.ndarray) -> np.ndarray:
        """The same by numpy, to the last bit; of a few frames several times as fast as by torch."""
        twiddles, split = self.twiddles_CKQ11.numpy(), self.split_CK1.numpy()
        parts = []
        for start in range(0, frames_NS.shape[1], _FRAMES):
            part_NS = np.ascontiguousarray(frames_NS[:, start : start + _FRAMES])
            parts.append(self._power_by(np, part_NS, twiddles, split))
        return np.concatenate(parts, axis=1)

    def _power_by(self, lib: Any, frames_NS: Any, twiddles_CKQ11: Any, split_CK1: Any) -> Any:
        """`forward` with the arrays of ``lib``, torch or numpy."""
        z_CRS = frames_NS.reshape(self.num_pairs, 2, -1).swapaxes(0, 1)
        z_CKRS = z_CRS[:, None]
        if self.starts_with_two:
            half = self.num_pairs // 2
            a_CRS, b_CRS = z_CRS[:, :half], z_CRS[:, half:]
            z_CKRS = lib.stack([a_CRS + b_CRS, a_CRS - b_CRS], 1)
        first = 0
        for joined in self.joined:
            z_CKRS = _join_four(lib, z_CKRS, twiddles_CKQ11[:, first : first + joined])
            first += joined
        return self._power(lib, z_CKRS[:, :, 0], split_CK1)

    def _power(self, lib: Any, z_CKS: Any, split_CK1: Any) -> Any:
        """Power of a real signal from the spectrum of the complex one (even samples, odd samples)."""
        middle = self.num_pairs // 2
        (a_r, a_i), (b_r, b_i) = z_CKS[:, 1 : middle + 1], lib.flip(z_CKS[:, middle:], (1,))
        cos_K1, sin_K1 = split_CK1
        even_r, even_i, gap_r, gap_i = a_r + b_r, a_i - b_i, a_r - b_r, a_i + b_i
        odd_rr, odd_ii, odd_i = gap_r * cos_K1, gap_i * sin_K1, gap_i * cos_K1 + gap_r * sin_K1
        lower_KS = _squared_half(lib, (even_r + odd_rr) - odd_ii, even_i + odd_i)
        upper_KS = _squared_half(lib, (even_r + odd_ii) - odd_rr, odd_i - even_i)
        lowest_1S = lib.square(z_CKS[0, :1] + z_CKS[1, :1])
        return lib.concatenate([lowest_1S, lower_KS[:-1], lib.flip(upper_KS, (0,))])


def _join_four(lib: Any, z_CKRS: Any, twiddles_CKQ11: Any) -> Any:
    """Four transforms of length K become one of length 4 K: [2, K, R, S] -> [2, 4 K, R / 4, S]."""
    _, num_bins, rest, num_frames = z_CKRS.shape
    z_CKQRS = z_CKRS.reshape(2, num_bins, 4, rest // 4, num_frames)
    a_r, a_i = z_CKQRS[:, :, 0]
    by_cos, by_sin = twiddles_CKQ11[:, None] * z_CKQRS[:, :, 1:]
    b_rr, c_rr, d_rr = by_cos[0].swapaxes(0, 1)
    b_ii, c_ii, d_ii = by_sin[1].swapaxes(0, 1)
    b_i, c_i, d_i = (by_cos[1] + by_sin[0]).swapaxes(0, 1)
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
    return lib.stack(joined).reshape(2, 4 * num_bins, rest // 4, num_frames)


def _squared_half(lib: Any, real: Any, imag: Any) -> Any:
    return lib.square(0.5 * real) + lib.square(0.5 * imag)


def _clockwise(turns: np.ndarray) -> Tensor:
    """(cos, sin) of so many turns back, computed in float64 and rounded."""
    angle = -2 * np.pi * turns
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32))
