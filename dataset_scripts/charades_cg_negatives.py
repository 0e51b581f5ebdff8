"""Build and publish Charades-CG with hard negatives.

python dataset_scripts/charades_cg_negatives.py --output-dir DIR [--data-dir FOLDER] [--push-to-hub --repo-id OWNER/NAME]
"""

from __future__ import annotations

import sys

from shine_hf.builders.compositional import CompositionalNegatives
from shine_hf.builders.tree import main


class CharadesCGNegatives(CompositionalNegatives, dataset="charades_cg"):
    """Charades-CG (Li et al., CVPR 2022), with the negatives of SHINE (Cheng et al., ECCV 2024) and generated ones."""


if __name__ == "__main__":
    sys.exit(main(CharadesCGNegatives))
