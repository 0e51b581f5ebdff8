"""Rewrite network.safetensors, only if the tests against the public implementations pass.

    python -m tests.golden.record

Needs ../shared/golden. Read the output before you commit the file: a changed number means that the network changed.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .network import FILE, measure


def main() -> None:
    here = Path(__file__).parent
    tests = [str(here / "test_models.py"), str(here / "test_losses.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=here.parents[1], env=os.environ, capture_output=True, text=True)
    if result.returncode or " skipped" in result.stdout:
        sys.exit(f"nothing recorded: the tests against the public implementations fail\n{result.stdout[-2000:]}")
    old, new = load_file(FILE) if FILE.exists() else {}, measure()
    for key in sorted(old.keys() | new.keys()):
        if key not in old or key not in new:
            print("removed" if key in old else "new", key)
        elif old[key].shape != new[key].shape or not torch.allclose(old[key], new[key], rtol=1e-4, atol=1e-6):
            print("changed", key)
    save_file(new, FILE)


if __name__ == "__main__":
    main()
