"""Entry point for `accelerate launch train.py --config shine_hf/recipes/NAME.yaml …`, equivalent to `shine-hf train`."""

import sys

from shine_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
