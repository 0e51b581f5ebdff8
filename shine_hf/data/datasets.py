"""The metadata of each dataset, in one [`DatasetSpec`] that readers, builders, cards and help texts share."""

from __future__ import annotations

from collections.abc import Mapping

from .citations import ACTIVITYNET_CAPTIONS, CHARADES, CHARADES_STA, COMPOSITIONAL, DIDEMO, QVHIGHLIGHTS, TACOS
from .dataset_spec import DatasetSpec
from .sources import SourceFile

AUTHORS_NEGATIVES = "gpt-3.5-turbo"
"""The source of negatives that the authors of SHINE released."""

COMPOSITIONAL_SPLITS = ("train", "test_trivial", "novel_composition", "novel_word")
COMPOSITIONAL_REPOSITORY = ("YYJMJC/Compositional-Temporal-Grounding", "2372337e9166b8e26b83ce936a8474c6ae127290")
SHINE_REPOSITORY = ("zxccade/SHINE", "bf8b5986caff796fffea62f7f1e5753bbc86b0f5")


def find_dataset(name: str) -> DatasetSpec:
    """Return the metadata of a dataset.

    Raises:
        ValueError: for an unknown name. The message lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _originals(folder: str, name: str, sha256: Mapping[str, str]) -> dict[str, SourceFile]:
    return {
        split: SourceFile(COMPOSITIONAL_REPOSITORY, f"{folder}/{split}.json", f"{name}/{split}.json", digest)
        for split, digest in sha256.items()
    }


def _released(folder: str, sha256: str | None = None) -> SourceFile:
    path = f"{folder}/{folder}_gpt_train.jsonl"
    return SourceFile(SHINE_REPOSITORY, f"data/{path}", f"shine/{path}", sha256)


def _names(**splits: str) -> dict[str, tuple[str, ...]]:
    """Return split -> tuple of file names, given as strings of names separated by spaces."""
    return {split: tuple(names.split()) for split, names in splits.items()}


_COMPOSITIONAL = (
    "The test queries combine known words in new ways (`novel_composition`), contain unknown words (`novel_word`), or do neither "
    "(`test_trivial`)."
)

_SPECS = (
    DatasetSpec(
        name="charades_cg",
        title="Charades-CG",
        description=f"Find the moment that a sentence describes, in videos of daily activities at home. {_COMPOSITIONAL}",
        files={split: (f"{split}.json",) for split in COMPOSITIONAL_SPLITS},
        queries={"train": 8281, "test_trivial": 3096, "novel_composition": 3442, "novel_word": 695},
        clip_length=0.5,
        features="I3D (1024 channels)",
        source=f"https://github.com/{COMPOSITIONAL_REPOSITORY[0]}",
        license="not stated",
        videos="Charades (https://prior.allenai.org/projects/charades), under its own license for non-commercial use",
        citation="\n".join((COMPOSITIONAL, CHARADES_STA, CHARADES)),
        default_negatives=AUTHORS_NEGATIVES,
        authors_negatives=_released("charades_cg", "c9910e41283771ec42193810ff35a3b6f37803f0c3c617263f113fcaac35d685"),
        hub_id="shine/charades-cg-negatives",
        originals=_originals(
            "Charades-CG",
            "charades_cg",
            {
                "train": "c66556077d8b6a1fd7ee91641f994cd1341c11adfa4fc078434c9fe7a4b93d8d",
                "test_trivial": "45eec9d3c46187235309344ab937a065b409cbdc3f3f9d926da6fd05302d822d",
                "novel_composition": "c92beda2c861bb0da356d94bba131d49e20a59d893d6e182bda1ee68a852514d",
                "novel_word": "f3ccd59c9f18e221028138faaf9bdddb5215e2550215ca62c8f24659168eb7f3",
            },
        ),
        known_faults=(
            "729 of the `train` videos are in the *test* set of Charades-STA: do not start from a model that was trained or selected on it.",
            "Missing spaces (`door.the`, 7 training queries), double spaces (15) and errors such as `person they` (646) are kept from the "
            "original.",
            "`Novel` means unseen as a parsed pair: only 2,057 of the 3,442 `novel_composition` queries contain a pair of words that do not "
            "occur together in any training query.",
        ),
    ),
    DatasetSpec(
        name="activitynet_cg",
        title="ActivityNet-CG",
        description=f"Find the moment that a sentence describes, in videos of people's activities from the web. {_COMPOSITIONAL}",
        files={split: (f"{split}.json",) for split in COMPOSITIONAL_SPLITS},
        queries={"train": 36724, "test_trivial": 15712, "novel_composition": 12028, "novel_word": 3920},
        clip_length=1.0,
        features="C3D or I3D",
        source=f"https://github.com/{COMPOSITIONAL_REPOSITORY[0]}",
        license="not stated",
        videos="ActivityNet (http://activity-net.org), whose videos belong to their uploaders",
        citation="\n".join((COMPOSITIONAL, ACTIVITYNET_CAPTIONS)),
        # The authors released negatives, but they are not always available.
        default_negatives="lexical",
        authors_negatives=_released("anet_cg"),
        hub_id="shine/activitynet-cg-negatives",
        originals=_originals(
            "ActivityNet_CG",
            "activitynet_cg",
            {
                "train": "31a6e0aa938f1f0d469bcb8d5492de7f9e9f77f74ba5676772db052057e26102",
                "test_trivial": "32c4d12ff1cdf35f4b48cf4d93bbb2c71beb802d693f57e0afc90347aaa937a4",
                "novel_composition": "d44d2c456974a4661bf14008d6316926e3b04d7ab9d48ed694861dc28602fe1b",
                "novel_word": "74e071738ece6d75ab1237c04a9a8cdebc939d3d65b015181596a84ae14f782c",
            },
        ),
        known_faults=(
            "In `train`, two windows are empty (v_N7ppHQNikv8, v_4rKTw99bM8g) and two are reversed (v_0bosp4-pyTM, v_rhOtqArO-3Y). These rows "
            "are kept and flagged, but left out of training by default.",
            "23 training queries contain non-ASCII characters, 5 contain control characters. Spaces around a sentence are stripped; nothing "
            "else is changed.",
        ),
    ),
    DatasetSpec(
        name="charades_sta",
        title="Charades-STA",
        description="Find the moment that a sentence describes, in videos of daily activities at home.",
        files=_names(
            train="charades_sta_train.txt charades_sta_train_tvr_format.jsonl charades_train_release.jsonl charades_sta_train.jsonl",
            test="charades_sta_test.txt charades_sta_test_tvr_format.jsonl charades_test_release.jsonl charades_sta_test.jsonl",
        ),
        queries={"train": 12408, "test": 3720},
        clip_length=0.5,
        features="I3D (1024 channels); SlowFast and CLIP at 1 s",
        source="https://github.com/jiyanggao/TALL",
        license="not stated",
        videos="Charades (https://prior.allenai.org/projects/charades), under its own license for non-commercial use",
        citation="\n".join((CHARADES_STA, CHARADES)),
        default_negatives="lexical",
        authors_negatives=_released("charades_sta"),
    ),
    DatasetSpec(
        name="activitynet_captions",
        title="ActivityNet Captions",
        description="Find the moment that a sentence describes, in videos of people's activities from the web.",
        files=_names(
            train="train.json activitynet_train_release.jsonl activitynet_captions_train.jsonl",
            validation="val_1.json activitynet_val_1_release.jsonl activitynet_captions_val_1.jsonl",
            test="val_2.json activitynet_val_2_release.jsonl activitynet_captions_val_2.jsonl",
        ),
        queries={"train": 37417, "validation": 17505, "test": 17031},
        clip_length=1.0,
        features="C3D",
        source="https://cs.stanford.edu/people/ranjaykrishna/densevid/",
        license="not stated",
        videos="ActivityNet (http://activity-net.org), whose videos belong to their uploaders",
        citation=ACTIVITYNET_CAPTIONS,
        default_negatives="lexical",
    ),
    DatasetSpec(
        name="tacos",
        title="TACoS",
        description="Find the moment that a sentence describes, in long videos of people cooking.",
        files=_names(
            train="train.json tacos_train_release.jsonl tacos_train.jsonl train.jsonl",
            validation="val.json tacos_val_release.jsonl tacos_val.jsonl val.jsonl",
            test="test.json tacos_test_release.jsonl tacos_test.jsonl test.jsonl",
        ),
        queries={"train": 10146, "validation": 4589, "test": 4083},
        clip_length=2.0,
        features="C3D; SlowFast and CLIP at 2 s",
        source="https://github.com/microsoft/VideoX/tree/master/2D-TAN",
        license="not stated",
        videos="MPII Cooking Composite Activities, for research",
        citation=TACOS,
        default_negatives="lexical",
    ),
    DatasetSpec(
        name="qvhighlights",
        title="QVHighlights",
        description="Find all moments that a sentence describes, and the highlights, in vlogs and news videos of 150 s.",
        files=_names(
            train="highlight_train_release.jsonl",
            validation="highlight_val_release.jsonl",
            test="highlight_test_release.jsonl",
        ),
        queries={"train": 7218, "validation": 1550, "test": 1542},
        clip_length=2.0,
        features="SlowFast (2304 channels) and CLIP (512)",
        source="https://github.com/jayleicn/moment_detr/tree/main/data",
        license="CC BY-NC-SA 4.0",
        videos="YouTube, whose videos belong to their uploaders",
        citation=QVHIGHLIGHTS,
        default_negatives="lexical",
        known_faults=("The test split has no windows. Predictions are scored by the authors' server.",),
    ),
    DatasetSpec(
        name="didemo",
        title="DiDeMo",
        description="Find the moment that a sentence describes, in unedited videos of 25 to 30 s, in steps of 5 s.",
        files=_names(train="train_data.json", validation="val_data.json", test="test_data.json"),
        queries={"train": 33005, "validation": 4180, "test": 4021},
        clip_length=1.0,
        features="VGG (4096 channels)",
        source="https://github.com/LisaAnne/LocalizingMoments/tree/master/data",
        license="not stated",
        videos="Flickr (YFCC100M), under the Creative Commons licenses of their uploaders",
        citation=DIDEMO,
        default_negatives="lexical",
    ),
    DatasetSpec(
        name="shapes_cg",
        title="Shapes-CG",
        description="A synthetic video benchmark of compositional temporal grounding, rendered locally.",
        files={split: (f"{split}.jsonl",) for split in ("train", "test_trivial", "novel_composition")},
        queries={},
        clip_length=1.0,
        features="pixels:size=20,frames=4",
        source="generated by `shine-hf demo` or dataset_scripts/shapes_cg.py",
        license="MIT",
        videos="rendered",
        citation="",
    ),
)
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}
