"""The ``farvox`` command in a rank that a signal takes away in the middle: for tests with ``torchrun``.

``FRAGILE`` is a rank, a signal and a file: in its first life the rank sends itself the signal at the first
step that it takes when the file is there. It leaves its number in ``RUN_DIR.leaving`` before, and the others
then do not wait for it as long as they would.
"""

import os
import sys
import time
from pathlib import Path

from farvox.cli.main import main
from farvox.training.step import Stepper


def be_fragile(rank: str, number: str, file: str) -> None:
    whole_step, leaving = Stepper.step, Path(f"{Path(file).parent.parent}.leaving")

    def step(self, *args, **options):
        if Path(file).exists():
            watch = self.world.watch
            while watch.last_of(watch.rank).stage != watch._place[0]:
                time.sleep(0.01)
            if os.environ["RANK"] == rank:
                leaving.write_text(str(os.getpid()))
                os.kill(os.getpid(), int(number))
            while not leaving.exists():
                time.sleep(0.01)
            watch.seconds = 1.0
        return whole_step(self, *args, **options)

    Stepper.step = step


if __name__ == "__main__":
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        be_fragile(*os.environ["FRAGILE"].split(":"))
    sys.exit(main(sys.argv[1:]))
