"""Feed a reader of `tests/readers.py` with what atheris finds, guided by coverage: READER FOLDER SECONDS.

An input is the number of a file of the cases, as one byte, and the content that it gets. What fails is left
in FOLDER, as ``READER/CASE--FILE--WHAT``, to be kept in ``tests/found``.
"""

import hashlib
import runpy
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["farvox"]):
    READERS = runpy.run_path(str(Path(__file__).parents[1] / "readers.py"))

name, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
seeds, found = folder / "seeds", folder / "found"
for each in (seeds, found):
    each.mkdir(parents=True, exist_ok=True)
cases = READERS["Cases"](name, folder / "made")
for number, file in enumerate(cases.files[:256]):
    (seeds / str(number)).write_bytes(bytes([number]) + cases.content(file))


def read(given: bytes) -> None:
    """Read a case; what a reader raises is kept, and ends the run."""
    if not given:
        return
    case, file = cases.files[given[0] % len(cases.files)]
    try:
        cases.read((case, file), given[1:])
    except BaseException:
        kept = found / name / f"{case}--{file.replace('/', '+')}--{hashlib.sha256(given).hexdigest()[:8]}"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(given[1:])
        raise


options = (f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=4096", "-max_len=20000")
atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={found}/", "-print_final_stats=1", str(seeds)], read)
atheris.Fuzz()
