"""Every benchmark one after the other, and one table of what they found.

python benchmarks/run.py                   # all; the rows go to results/latest.json
python benchmarks/run.py scoring features  # some
python benchmarks/run.py --check           # fails on a ratio lost against results/base.json
python benchmarks/run.py --base            # what was found becomes results/base.json and the docs' table

The base holds the figures of each kind of machine (processor, cores, instructions): ratios, too, are of one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from _bench import LOST, Row, machine, row_of, told

HERE = Path(__file__).parent
BASE, LATEST = HERE / "results/base.json", HERE / "results/latest.json"
PAGE = HERE.parent / "docs/performance.md"
BY_HAND = ("run", "coverage", "engines", "figures", "listen", "quality", "recordings")
"""Scripts that are no stages."""
HELD_TO_AVX2 = ("extract", "train_step")
"""Stages that are run a second time with torch's convolutions in AVX2 and fp32, as on most laptops."""
BEGIN, END = "<!-- figures: written by 'make bench-base' -->\n", "<!-- end of figures -->\n"


def stages() -> list[str]:
    """The scripts there are."""
    names = (path.stem for path in HERE.glob("*.py"))
    return sorted(name for name in names if name not in BY_HAND and not name.startswith("_"))


def run_stage(stage: str, options: list[str]) -> list[Row]:
    """The rows of one script, which prints what it does; where it matters, also those of a common laptop."""
    rows = run_script(stage, options)
    if stage in HELD_TO_AVX2 and "avx512f" in str(machine()["flags"]):
        held = run_script(stage, options, ONEDNN_MAX_CPU_ISA="AVX2")
        rows += [replace(row, name=f"{row.name}, oneDNN held to AVX2", target=None) for row in held]
    return rows


def run_script(stage: str, options: list[str], **environment: str) -> list[Row]:
    """The rows of one script, run with further variables of the environment."""
    print(f"== {stage} {environment or ''}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "rows.json")
        command = [sys.executable, str(HERE / f"{stage}.py"), "--json", str(found), *options]
        if subprocess.run(command, env={**os.environ, **environment}).returncode:
            raise SystemExit(f"benchmarks/{stage}.py failed")
        return [row_of(fields) for fields in json.loads(found.read_text())] if found.exists() else []


def merged(rows: list[Row], more: list[Row]) -> list[Row]:
    """The figures of another run put behind those of the same rows."""
    known = {(row.stage, row.name): row for row in rows}
    for row in more:
        if (earlier := known.get((row.stage, row.name))) is None:
            rows.append(row)
        else:
            earlier.ours += row.ours
            earlier.reference += row.reference
    return rows


def table(rows: list[Row]) -> list[list[str]]:
    """What is printed of each row."""
    lines = [["stage", "what", "ours", "reference", "(published)", "ratio", "spread", "to reach", "floor"]]
    for row in rows:
        reference = sorted(row.reference)[len(row.reference) // 2]
        goal = "-"
        if row.target is not None:
            sign = "x" if row.target.of.startswith("ratio") else row.unit
            goal = f"{row.target.of.split()[-1]} {told(row.target.bound)} {sign}"
            goal += ": yes" if row.reached else ": no"
        lines.append(
            [
                row.stage,
                row.name,
                f"{told(row.figure)} {row.unit}",
                told(reference),
                f"({told(row.published)})" if row.published else "",
                f"{row.ratio:.3g}",
                f"{min(row.ratios):.3g} to {max(row.ratios):.3g}",
                goal,
                told(row.floor) if row.floor else "-",
            ]
        )
    return lines


def as_text(lines: list[list[str]]) -> str:
    """Columns of equal width."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(lines: list[list[str]]) -> str:
    """The same for the docs."""
    head, *body = [f"| {' | '.join(cell or '-' for cell in line)} |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body]) + "\n"


def for_the_page(base: list[dict]) -> str:
    """What the docs say of the base, between the two marks."""
    parts = []
    for found in base:
        rows, on = [row_of(fields) for fields in found["rows"]], found["machine"]
        said = f"{kind_of(on)}, Python {on['python']}, numpy {on['numpy']}"
        parts.append(f"{said}:\n\n{as_markdown(table(rows))}\n")
    return f"{BEGIN}\n{''.join(parts)}{END}"


def kind_of(on: dict) -> str:
    """The kind of machine, in words."""
    return f"{on['cores']} cores of {on['cpu']} ({on['flags']})"


def read_base() -> list[dict]:
    """The figures to keep, of each kind of machine."""
    return json.loads(BASE.read_text()) if BASE.exists() else []


def of_this_kind(base: list[dict], on: dict) -> dict | None:
    """What the base holds of a kind of machine."""
    return next((found for found in base if kind_of(found["machine"]) == kind_of(on)), None)


def lost(base: list[Row], now: list[Row]) -> list[str]:
    """The ratios that are lost: more than 20 % below the base, or no longer measured."""
    measured, found = {(row.stage, row.name): row for row in now}, []
    for row in base:
        other = measured.get((row.stage, row.name))
        if other is None:
            found.append(f"{row.stage}: {row.name}: no longer measured")
        elif other.ratio < LOST * row.ratio:
            found.append(
                f"{row.stage}: {row.name}: {other.ratio:.3g} x the reference, and {row.ratio:.3g} in the base"
            )
    return found


def stages_of(faults: list[str]) -> list[str]:
    return sorted({fault.split(":")[0] for fault in faults})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(stages())}; all unless given")
    parser.add_argument(
        "--runs", type=int, default=1, help="how often each script is run; figures are pooled"
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--base", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that the scripts work")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(stages()):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    chosen, more = options.stages or stages(), ["--clock", options.clock]
    more += ["--quick"] if options.quick else []
    rows: list[Row] = []
    for _ in range(options.runs):
        for stage in chosen:
            rows = merged(rows, run_stage(stage, more))
    found = {"machine": {**machine(), "clock": options.clock}, "rows": [asdict(row) for row in rows]}
    print(f"\n{' '.join(f'{key}: {value};' for key, value in found['machine'].items())}")
    print(as_text(table(rows)))
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(found, indent=1) + "\n")
    if options.base:
        write_base(found)
    return check(found["machine"], rows, chosen, more) if options.check else 0


def write_base(found: dict) -> None:
    """Make these the figures to keep of this kind of machine; rows of stages that were not run stay."""
    base = read_base()
    earlier = of_this_kind(base, found["machine"])
    run = {fields["stage"] for fields in found["rows"]}
    kept = [fields for fields in (earlier or {"rows": []})["rows"] if fields["stage"] not in run]
    found = {**found, "rows": sorted(found["rows"] + kept, key=lambda fields: fields["stage"])}
    base = [found if each is earlier else each for each in base] + [found] * (earlier is None)
    BASE.write_text(json.dumps(base, indent=1) + "\n")
    if PAGE.exists():
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + for_the_page(base) + rest.partition(END)[2])


def check(on: dict, rows: list[Row], chosen: list[str], more: list[str]) -> int:
    """Say which ratios are lost; a stage that lost one is run once more before that is believed."""
    kept = of_this_kind(read_base(), on)
    if kept is None:
        print(f"{BASE} has no figures of {kind_of(on)}: 'make bench-base' adds them")
        return 1
    base = [row for row in map(row_of, kept["rows"]) if row.stage in chosen]
    faults = lost(base, rows)
    for stage in stages_of(faults):
        again = run_stage(stage, more)
        if not lost([row for row in base if row.stage == stage], again):
            faults = [fault for fault in faults if not fault.startswith(f"{stage}:")]
    print("\n" + ("\n".join(["lost:", *faults]) if faults else "no ratio is lost"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
