"""Build and publish ActivityNet-CG with hard negatives.

    python dataset_scripts/activitynet_cg_negatives.py --output-dir DIR [--data-dir FOLDER] [--push-to-hub --repo-id OWNER/NAME]

The negatives that the authors of SHINE released are the config `gpt-3.5-turbo`, built where it is asked for (`--configs gpt-3.5-turbo`): from
their repository, or from `shine/anet_cg/anet_cg_gpt_train.jsonl` under the data folder.
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
@inproceedings{krishna2017dense,
  title = {Dense-Captioning Events in Videos},
  author = {Krishna, Ranjay and Hata, Kenji and Ren, Frederic and Fei-Fei, Li and Niebles, Juan Carlos},
  booktitle = {ICCV},
  year = {2017}
}"""


class ActivityNetCGNegatives(CompositionalNegatives):
    """ActivityNet-CG (Li et al., CVPR 2022), with generated negatives, and those of SHINE where they are at hand."""

    dataset = "activitynet_cg"
    BUILDER_CONFIGS = [
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
        NegativesConfig(name="gpt-3.5-turbo", description="the negatives that the authors of SHINE released (train)"),
    ]
    DEFAULT_CONFIG_NAME = "lexical"
    ON_DEMAND = ("gpt-3.5-turbo",)
    about = About(
        title="ActivityNet-CG with hard negatives",
        description=(
            "Find the moment that a sentence describes, in videos of people's activities from the web. The test sentences combine known words "
            "in new ways (`novel_composition`), hold unknown words (`novel_word`), or do neither (`test_trivial`)."
        ),
        repo_id="shine/activitynet-cg-negatives",
        videos="ActivityNet (http://activity-net.org), whose videos belong to their uploaders",
        known_faults=(
            "In `train` two windows are empty (v_N7ppHQNikv8, v_4rKTw99bM8g) and two reversed (v_0bosp4-pyTM, v_rhOtqArO-3Y). The rows are "
            "kept, flagged, and left out of training by default.",
            "23 training queries hold characters beyond ASCII, 5 hold control characters. Spaces around a sentence are stripped; nothing "
            "else is changed.",
        ),
        citation=CITATION,
    )


if __name__ == "__main__":
    sys.exit(main(ActivityNetCGNegatives))
