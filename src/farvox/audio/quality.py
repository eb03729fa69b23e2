"""Measures of a recording on which its scores depend, and the terms of a calibration that knows them.

The measures of a recording are numbers from 0, of one channel at the rate of the model, before conditioning:

- ``speech``: seconds of what may be speech, by the rule of `farvox.audio.conditioning.is_speech`.
- ``decay``: by how much the level falls in 50 ms where it falls fast, in dB: of the frames at most 25 dB
  below the loudest 0.1 s, one in ten falls faster. Reverberation and noise fill the gaps of speech: nine in
  ten of 1,000 utterances of speechocean762 have 5.9 to 16.8 dB as recorded, 5.0 to 17.4 cut to 1 to 2 s, and
  3.3 to 7.4 at 1 to 5 m in rooms with a T60 of 0.3 to 0.8 s and noise at 5 to 20 dB.
- ``narrow``: 1 where nothing of a voice lies above 4 kHz, see `farvox.audio.levels.is_narrow`, else 0.
- ``norm``: the length of the embedding, as the network gives it.

Of several channels or recordings of a side it is the mean. A term is ``weight * log(1 + x)``, with x the
lower or the higher value of the two sides, kept within the range of the trials of the fit, so that nothing
is concluded from values that were not seen. Terms of both sides beside the score: M. I. Mandasari et al.,
Quality measure functions for calibration of speaker recognition systems in various duration conditions, IEEE
Transactions on Audio, Speech, and Language Processing 21(11), 2013.

Shape suffixes: T sample, F frame, M measure, N trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from farvox.audio.files import Wave

MEASURES = ("speech", "decay", "narrow", "norm")
OF_SAMPLES = MEASURES[:-1]
SIDES = ("lower", "higher")
_SPAN = 5  # frames, of 10 ms
_LOUD_DB = 25.0  # below the loudest 0.1 s

Measured = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QualityTerm:
    """A term of a log-likelihood ratio: ``weight * log(1 + x)``, x between ``low`` and ``high``.

    Attributes:
        measure: one of `MEASURES`.
        side: the "lower" or the "higher" value of the two sides.
        weight: nats; 0 where the trials of the fit hardly differed, so that only their range is known.
        low: of the trials of the fit; a value below counts as this.
        high: likewise above.
    """

    measure: str
    side: str
    weight: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{'-' if self.weight < 0 else '+'} {abs(self.weight):.4f} x log(1 + {self.side} {self.measure})"
        )


def measure(wav_T: Wave, sample_rate: int, own_rate: int) -> Measured:
    """The measures `OF_SAMPLES` of a channel; ``own_rate`` is that of the file, Hz."""
    from farvox.audio.conditioning import is_speech  # scores are judged without what audio needs
    from farvox.audio.levels import frame_levels, is_narrow, loudest

    level_F = frame_levels(wav_T, sample_rate)
    fall_F = (level_F[:-_SPAN] - level_F[_SPAN:])[level_F[:-_SPAN] >= loudest(level_F) - _LOUD_DB]
    decay = max(0.0, float(np.percentile(fall_F, 90))) if len(fall_F) else 0.0
    return np.array([0.01 * is_speech(level_F).sum(), decay, is_narrow(wav_T, sample_rate, own_rate)], float)


def value_of(name: str, side: str, enrol_NM: Measured, test_NM: Measured) -> Measured:
    """The lower or the higher value of a measure of two sides, [N]; of one trial, a number."""
    m = MEASURES.index(name)
    either = np.minimum if side == "lower" else np.maximum
    return np.asarray(either(enrol_NM[..., m], test_NM[..., m]))


def is_outside(term: QualityTerm, value_N: Measured, margin: float = 0.0) -> NDArray[np.bool_]:
    """True for values that lie outside the range of a term by more than ``margin``, a share of its logs."""
    low, high = np.log1p(term.low), np.log1p(term.high)
    beyond = max(1e-3, margin * (high - low))  # files keep seven digits
    x_N = np.log1p(value_N)
    return np.asarray((x_N < low - beyond) | (x_N > high + beyond))


def quality_llr(terms: Sequence[QualityTerm], enrol_NM: Measured, test_NM: Measured) -> Measured:
    """The sum that the terms add to the log-likelihood ratios of trials, [N]; of one trial, a number."""
    added = np.zeros(np.shape(enrol_NM)[:-1])
    for term in terms:
        value_N = value_of(term.measure, term.side, enrol_NM, test_NM)
        added += term.weight * np.log1p(np.clip(value_N, term.low, term.high))
    return added
