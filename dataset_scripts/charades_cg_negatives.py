"""Build and publish Charades-CG with hard negatives.

python dataset_scripts/charades_cg_negatives.py --output-dir DIR [--data-dir FOLDER] [--push-to-hub --repo-id OWNER/NAME]
"""

from __future__ import annotations

import sys

from shine_hf.builders.compositional import About, CompositionalNegatives, NegativesConfig
from shine_hf.builders.tree import main

CITATION = """@inproceedings{li2022compositional,
  title = {Compositional Temporal Grounding with Structured Variational Cross-Graph Correspondence Learning},
  author = {Li, Juncheng and Xie, Junlin and Qian, Long and Zhu, Linchao and Tang, Siliang and Wu, Fei and Yang, Yi and Zhuang, Yueting and Wang, Xin Eric},
  booktitle = {CVPR},
  year = {2022}
}
@inproceedings{gao2017tall,
  title = {{TALL}: Temporal Activity Localization via Language Query},
  author = {Gao, Jiyang and Sun, Chen and Yang, Zhenheng and Nevatia, Ram},
  booktitle = {ICCV},
  year = {2017}
}
@inproceedings{sigurdsson2016hollywood,
  title = {Hollywood in Homes: Crowdsourcing Data Collection for Activity Understanding},
  author = {Sigurdsson, Gunnar A. and Varol, G{\\"u}l and Wang, Xiaolong and Farhadi, Ali and Laptev, Ivan and Gupta, Abhinav},
  booktitle = {ECCV},
  year = {2016}
}"""


class CharadesCGNegatives(CompositionalNegatives):
    """Charades-CG (Li et al., CVPR 2022), with the negatives of SHINE (Cheng et al., ECCV 2024) and generated ones."""

    dataset = "charades_cg"
    BUILDER_CONFIGS = [
        NegativesConfig(name="gpt-3.5-turbo", description="the negatives that the authors of SHINE released (train)"),
        NegativesConfig(
            name="lexical",
            generator="lexical",
            description="words that are seen together in training queries (all splits)",
        ),
        NegativesConfig(
            name="random",
            generator="random_words",
            description="words of the training queries of the same part of speech, drawn evenly (all splits)",
        ),
    ]
    DEFAULT_CONFIG_NAME = "gpt-3.5-turbo"
    about = About(
        title="Charades-CG with hard negatives",
        description=(
            "Find the moment that a sentence describes, in videos of daily activities at home. The test sentences combine known words in "
            "new ways (`novel_composition`), hold unknown words (`novel_word`), or do neither (`test_trivial`)."
        ),
        repo_id="shine/charades-cg-negatives",
        videos="Charades (https://prior.allenai.org/projects/charades), under a licence of its own for non-commercial use",
        known_faults=(
            "729 of the `train` videos are in the *test* set of Charades-STA: do not start from a model that was trained or chosen on it.",
            "Glued words (`door.the`, 7 training queries), double spaces (15) and slips such as `person they` (646) are as in the original.",
            "`Novel` means unseen as a parsed pair: only 2,057 of the 3,442 `novel_composition` queries hold a pair of words that no training "
            "query has together.",
        ),
        citation=CITATION,
    )


if __name__ == "__main__":
    sys.exit(main(CharadesCGNegatives))
