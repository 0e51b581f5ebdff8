"""Facts of made-up runs, and the cards in `model_cards/` that the renderer makes of them.

python -m tests.cards.golden_cards      # after a change of the template: write the cards again, and read `git diff`
"""

from __future__ import annotations

from pathlib import Path

from shine_hf.cards.eval_results import EVAL_RESULTS_FILE
from shine_hf.cards.facts import DataFacts, ModelFacts, SaliencyExample
from shine_hf.cards.model_card import card_files, render_model_card

FOLDER = Path(__file__).resolve().parents[2] / "model_cards"
ALL_FIGURES = ("figures/training_curves.png", "figures/saliency_hierarchy.png", "figures/saliency_example.png")
ENVIRONMENT = {"shine_hf": "0.1.0", "Python": "3.11.0", "torch": "2.0.0", "device": "CPU", "precision": "float32"}


def metrics(value: float, **links: float) -> dict[str, float]:
    """Return the same number for every metric, so that nobody takes them for measured ones."""
    names = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "mAP", "loss")
    return dict.fromkeys(names, value) | {name.replace("_over_", ">"): share for name, share in links.items()}


def shine_on_simulated_features() -> ModelFacts:
    """Describe everything that a card can say: several splits, one of them without answers, the best model, simulated features."""
    split = {"queries": 1234, "videos": 567, "fingerprint": "0123456789abcdef" * 4}
    chain = {"positive_over_level1": 90.0, "level1_over_level2": 80.0, "level2_over_irrelevant": 70.0, "chain": 60.0}
    return ModelFacts(
        name="shine/made-up-charades-cg-shine",
        class_name="QDDetrForMomentRetrieval",
        parameters=7_654_321,
        step=51_800,
        max_steps=51_800,
        config={
            "model_type": "qd_detr", "video_dim": 1024, "text_dim": 512, "clip_length": 0.5, "max_text_length": 32,
            "video_encoder": "simulated:dim=1024", "text_encoder": "clip:openai/clip-vit-base-patch32",
        },
        ranking=("coarse", "fine"),
        data=DataFacts(
            "Charades-CG",
            dict.fromkeys(("train", "validation", "novel_composition"), split) | {"hidden_test": split | {"annotated": 0}},
            negatives="gpt-3.5-turbo",
            hub_id="shine/charades-cg-negatives",
            revision="fedcba9876543210" * 2 + "01234567",
            eval_limit=100,
            is_simulated=True,
        ),
        results={
            "validation": metrics(11.111, **chain),
            "novel_composition": metrics(22.222) | {
                "positive>irrelevant": 95.0, "positive>irrelevant_low": 93.0, "positive>irrelevant_high": 97.0,
            },
        },
        results_step=51_800,
        example=SaliencyExample(
            split="validation", query="person opens the door.", duration_seconds=3.0, clip_length_seconds=0.5, windows=[[0.5, 1.5]],
            moments=[[0.4, 1.6, 0.9]], saliency=[0.0, 1.0, 1.0, 0.2, 0.1, 0.0],
            negative_saliency={
                "level 1: person closes the door.": [0.0, 0.6, 0.7, 0.1, 0.1, 0.0],
                "a query of another video": [0.0, 0.1, 0.0, 0.2, 0.0, 0.1],
            },
        ),
        selection=("validation_mIoU", 11.111, 40_000),
        settings={
            "model": {"video_dim": 1024, "hidden_size": 128},
            "data": {"soft_boundary_seconds": 0.5},
            "training": {"learning_rate": 4e-4, "fine_margins": [0.1, 0.2, 0.3], "seed": 3},
        },
        log_history=[{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}, {"step": 2, "eval_validation_mIoU": 11.111}],
        environment=ENVIRONMENT | {"time of training": "59.9 min"},
    )  # fmt: skip


def base_model_in_training() -> ModelFacts:
    """Describe a revision pushed during training: the last evaluation is some steps old, the data is a folder, and it takes video files."""
    return ModelFacts(
        name="shine/made-up-shapes-cg-base",
        class_name="MomentDetrForMomentRetrieval",
        parameters=1234,
        step=1500,
        max_steps=3000,
        config={
            "model_type": "moment_detr", "video_dim": 432, "text_dim": 256, "clip_length": 1.0, "max_text_length": 32,
            "video_encoder": "pixels:", "text_encoder": "words:",
        },
        data=DataFacts("Shapes-CG", {"train": {"queries": 10, "videos": 5, "fingerprint": "ab" * 32}}, negatives="train.jsonl"),
        results={"validation": metrics(33.333)},
        results_step=1000,
        settings={"training": {"seed": 0}},
        environment=ENVIRONMENT,
    )  # fmt: skip


def a_stranger() -> ModelFacts:
    """Describe a foreign model, trained with datasets that nobody described, before its first evaluation."""
    return ModelFacts(
        name="toy", class_name="Toy", parameters=42, step=1, max_steps=2, ranking=("coarse",), settings={"training": {"seed": 0}},
        environment=ENVIRONMENT,
    )  # fmt: skip


def render_all() -> dict[str, str]:
    """Return file name in `model_cards/` -> content. Figures are named and not drawn: their pixels depend on the version of matplotlib."""
    simulated = shine_on_simulated_features()
    return {
        "shine_on_simulated_features.md": render_model_card(simulated, ALL_FIGURES),
        "shine_on_simulated_features.eval_results.yaml": card_files(simulated, with_figures=False)[EVAL_RESULTS_FILE].decode(),
        "base_model_in_training.md": render_model_card(base_model_in_training()),
        "a_stranger.md": render_model_card(a_stranger()),
    }  # fmt: skip


def main() -> None:
    """Write the cards again."""
    for name, content in render_all().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
