"""Train on disks of various small sizes, so that they fill up at different points of a save. Needs root to mount a tmpfs.

    sudo python -m benchmarks.faults.full_disk [--steps 30] [--sizes-kib 200 400 600 …]

After each failure, the disk is enlarged and the same command is run again. The result is compared with a run that had enough space.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .runs import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sizes-kib", type=int, nargs="+", default=[100, 300, 500, 700, 900, 1200, 1500, 1800])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        enough = Run(Path(folder), "enough", args.steps)
        enough.finish()
        all_same = True
        for size in args.sizes_kib:
            run = Run(Path(folder), f"of_{size}_kib", args.steps)
            run.output.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", run.output], check=True)
            try:
                status = run.start().wait()
                messages = re.findall(r"error: (.* could not be saved.*)", run.log())
                step = run.last_complete_step()
                subprocess.run(["mount", "-o", "remount,size=100m", run.output], check=True)
                run.finish()
                same = run.is_same_as(enough)
                all_same &= same
                print(
                    f"{size} KiB: status {status}, complete up to step {step}; resumed: {'identical bit for bit' if same else 'DIFFERENT'}"
                )
                print(
                    f"    {messages[0].replace(str(run.output), 'OUT') if messages else run.log().strip().splitlines()[-1]}",
                    flush=True,
                )
            finally:
                subprocess.run(["umount", run.output], check=True)
                shutil.rmtree(run.output, ignore_errors=True)
        raise SystemExit(not all_same)


if __name__ == "__main__":
    main()
