"""How much of everything the synthetic corpus holds, and how that is written on a command line."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from farvox.errors import CorpusError
from farvox.synthetic.studio import DISTANCES


@dataclass(frozen=True, slots=True)
class Spec:
    """How much of everything; each field can be set as ``key=value``."""

    train_speakers: int = 80
    dev_speakers: int = 12
    test_speakers: int = 24
    train_takes: int = 12
    dev_takes: int = 6
    test_takes: int = 10
    min_seconds: float = 1.8
    max_seconds: float = 2.8
    train_points: int = 2
    train_microphones: int = 1
    test_microphones: int = 4
    train_rooms: int = 16
    dev_rooms: int = 4
    test_rooms: int = 8
    noises: int = 12
    bank_rooms: int = 12
    bank_noises: int = 16


SPECS = {
    "demo": Spec(),
    "tiny": Spec(
        train_speakers=8, dev_speakers=3, test_speakers=4, train_takes=3, dev_takes=2, test_takes=3,
        min_seconds=0.8, max_seconds=1.2, test_microphones=2, train_rooms=2, dev_rooms=1, test_rooms=1,
        noises=2, bank_rooms=1, bank_noises=2,
    ),
}  # fmt: skip


def parse_spec(text: str) -> Spec:
    """Read ``demo``, ``tiny``, or either (default ``demo``) with changes: ``tiny,train_speakers=20``.

    Raises:
        CorpusError: an unknown name or key, or a value that makes no corpus.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    spec = SPECS["demo"]
    if words and "=" not in words[0]:
        if words[0] not in SPECS:
            raise CorpusError(
                f"unknown synthetic corpus '{words[0]}': choose {' or '.join(SPECS)}, or key=value,..."
            )
        spec = SPECS[words.pop(0)]
    kinds = {field.name: type(getattr(spec, field.name)) for field in fields(Spec)}
    for word in words:
        key, _, value = word.partition("=")
        if key not in kinds:
            raise CorpusError(f"unknown key '{key}' of the synthetic corpus; there are: {', '.join(kinds)}")
        try:
            spec = replace(spec, **{key: kinds[key](value)})
        except ValueError:
            raise CorpusError(f"'{word}': a number is needed ({kinds[key].__name__})") from None
    return _sensible(spec)


def _sensible(spec: Spec) -> Spec:
    for field in fields(Spec):
        if getattr(spec, field.name) <= 0:
            raise CorpusError(f"{field.name} must be more than 0")
    if spec.max_seconds < spec.min_seconds:
        raise CorpusError("max_seconds must not be less than min_seconds")
    if min(spec.dev_takes, spec.test_takes, spec.dev_speakers, spec.test_speakers) < 2:
        raise CorpusError("trials need at least two speakers and two takes in dev and in test")
    if spec.train_points > len(DISTANCES):
        raise CorpusError(f"train_points: there are only {len(DISTANCES)} arrays")
    if spec.test_microphones not in (1, 2, 4, 8, 16) or spec.train_microphones > spec.test_microphones:
        raise CorpusError("test_microphones must be 1, 2, 4, 8 or 16, and train_microphones not more")
    return spec
