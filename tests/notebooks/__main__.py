"""Execute the notebooks in full and store them with their outputs: `make notebooks`.

    python -m tests.notebooks [01 03 ...]

Takes the demo model and text (`saelab assets fetch`), and a quarter of an hour or more.
"""

from __future__ import annotations

import sys
import time

from .execution import kernel, scripts, store


def main() -> None:
    wanted = sys.argv[1:]
    for script in scripts():
        if not wanted or script.name[:2] in wanted:
            started = time.perf_counter()
            with kernel() as run:
                path = store(run(script), script)
            spent, size = time.perf_counter() - started, path.stat().st_size
            sys.stdout.write(f"{path.name}: {size / 1e3:.0f} kB in {spent:.0f} s\n")


if __name__ == "__main__":
    main()
