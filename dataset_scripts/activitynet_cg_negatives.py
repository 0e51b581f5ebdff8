"""Build and publish ActivityNet-CG with hard negatives.

    python dataset_scripts/activitynet_cg_negatives.py --output-dir DIR [--data-dir FOLDER] [--push-to-hub --repo-id OWNER/NAME]

The negatives that the authors of SHINE released are the config `gpt-3.5-turbo`. It is only built on request (`--configs gpt-3.5-turbo`), from
their repository or from `shine/anet_cg/anet_cg_gpt_train.jsonl` in the data folder.
"""

from __future__ import annotations

import sys

from shine_hf.builders.compositional import CompositionalNegatives
from shine_hf.builders.tree import main


class ActivityNetCGNegatives(CompositionalNegatives, dataset="activitynet_cg"):
    """ActivityNet-CG (Li et al., CVPR 2022), with the negatives of SHINE (Cheng et al., ECCV 2024) and generated ones."""


if __name__ == "__main__":
    sys.exit(main(ActivityNetCGNegatives))
