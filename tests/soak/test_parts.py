"""Two million embeddings in 20 parts, in 2, and in one file: equal results, memory and processor time."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl

from farvox.datadir.embeddings import EmbeddingSet

NUM, DIM, SPEAKERS, COHORT = 2_000_000, 64, 20_000, 5_000
FORMS = {"one file": None, "2 parts": 1_000_448, "20 parts": 100_352}
MEASURE = """
import resource, sys
from farvox.cli.main import main
assert main(sys.argv[1:]) == 0
used = resource.getrusage(resource.RUSAGE_SELF)
print("used", used.ru_maxrss // 1024, used.ru_utime + used.ru_stime)
"""


def used_by(command):
    """Peak memory in MB, of which files that are mapped are a part, and processor time in seconds."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory, seconds = done.stdout.split("used ")[-1].split()
    return int(memory), float(seconds)


def test_two_million_embeddings_in_parts_are_used_as_in_one_file(tmp_path, monkeypatch, tell):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    means_SE = rng.standard_normal((SPEAKERS, DIM), dtype=np.float32)
    per = NUM // SPEAKERS
    rows_NE = means_SE.repeat(per, axis=0) + rng.standard_normal((NUM, DIM), dtype=np.float32)
    utt_ids = [f"s{n // per:05}-{n % per:03}" for n in range(NUM)]
    speakers = pl.Series([utt_id[:6] for utt_id in utt_ids])
    found = EmbeddingSet(utt_ids, rows_NE, {}, speaker_ids=speakers)
    cohort = EmbeddingSet(utt_ids[:COHORT], rows_NE[:COHORT], {}, speaker_ids=speakers[:COHORT])
    pairs = rng.integers(NUM, size=(200_000, 2))
    labels = pairs[:, 0] // per == pairs[:, 1] // per
    lines = {f"{int(same)} {utt_ids[a]} {utt_ids[b]}\n" for same, (a, b) in zip(labels, pairs, strict=True)}
    Path("trials").write_text("".join(sorted(lines)))
    commands = {
        "score": ("score trials emb --out scores", "scores"),
        "AS-norm": (
            "score trials emb --out normed --norm as-norm --cohort cohort --top 300",
            "normed",
        ),
        "k-means": ("cluster emb clusters --clusters 200 --min-size 1", "clusters/utt2spk"),
    }
    results = {}
    for form, part_rows in FORMS.items():
        found.save("emb", part_rows=part_rows)
        cohort.save("cohort", part_rows=part_rows and 1024)
        for what, (command, result) in commands.items():
            memory, seconds = used_by(command)
            tell(f"{what}, {form}", memory=f"{memory:,} MB", processor=f"{seconds:.0f} s")
            digest = sha256(Path(result).read_bytes()).hexdigest()
            assert results.setdefault(what, (digest, memory))[0] == digest
            assert memory <= 1.02 * results[what][1] + 20  # where it is mapped changes no pages
