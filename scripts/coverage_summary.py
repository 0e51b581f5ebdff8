"""Print line coverage per room of the package, from the JSON that SlipCover writes: `python scripts/coverage_summary.py FILE`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path


def main(file: str) -> None:
    """Print a line per folder in `shine_hf`, with the lowest coverage first."""
    lines, covered = Counter[str](), Counter[str]()
    for name, found in json.loads(Path(file).read_text(encoding="utf-8"))["files"].items():
        parts = Path(name).parts
        room = parts[1] if len(parts) > 2 else "(root)"
        for key in (room, "total"):
            covered[key] += len(found["executed_lines"])
            lines[key] += len(found["executed_lines"]) + len(found["missing_lines"])
    print("\nLine coverage, without lines that only run in subprocesses of tests:")
    for room in sorted(lines, key=lambda room: (room == "total", covered[room] / max(lines[room], 1))):
        print(f"  {room:<16}{covered[room]:>7,} of {lines[room]:>7,}{covered[room] / max(lines[room], 1):>7.0%}")


if __name__ == "__main__":
    main(sys.argv[1])
