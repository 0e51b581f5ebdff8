"""YAML sets defaults, the command line overrides them, and unknown keys are rejected."""

import pytest

from shine_hf.cli import main
from shine_hf.training.recipe import RECIPES, parse_recipe


def test_charades_recipes_have_the_paper_settings():
    for model, rate in (("qd_detr", 1e-4), ("moment_detr", 2e-4)):
        base, shine = (parse_recipe(["--config", f"charades_cg_{model}_{kind}"]) for kind in ("base", "shine"))
        for recipe in (base, shine):
            args = recipe.training
            assert (args.learning_rate, args.weight_decay, args.max_grad_norm) == (rate, 1e-4, 0.1)
            assert (args.num_train_epochs, args.lr_drop_epoch, args.per_device_train_batch_size) == (200, 150, 32)
            assert recipe.config_overrides() == {"clip_length": 0.5, "max_text_length": 32}
            assert args.metric_for_best_model.startswith("validation")
        assert base.training.make_shine_loss() is None
        loss = shine.training.make_shine_loss()
        assert (loss.coarse_weight, loss.fine_weight, loss.intra_margin, loss.inter_margin) == (1, 1, 1, 2)
        assert loss.fine_margins == (0.25,) * 4 and loss.top_k_divisor == 8


def test_losses_beyond_the_paper_are_off_and_reach_the_loss_from_file_and_command_line(tmp_path):
    settings = {
        "decoder_negative_weight": 0.5,
        "decoder_negative_form": "ranking",
        "decoder_negative_margin": 2.0,
        "clip_contrast_weight": 0.25,
    }
    off = parse_recipe(["--config", "charades_cg_qd_detr_shine"]).training.make_shine_loss()
    assert (off.decoder_negative_weight, off.clip_contrast_weight) == (0, 0)
    (tmp_path / "r.yaml").write_text("\n".join(f"{name}: {value}" for name, value in settings.items()))
    weights = ["--coarse-weight", "0", "--fine-weight", "0"]
    for given in (
        ["--config", str(tmp_path / "r.yaml")],
        [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), str(value))],
    ):
        args = parse_recipe([*given, *weights, "--output-dir", str(tmp_path)]).training
        loss = args.make_shine_loss()
        assert {name: getattr(loss, name) for name in settings} == settings and args.needs_hard_negatives
        saved = args.to_dict()  # As in training_args.json.
        assert {name: saved[name] for name in settings} == settings


def test_weights_of_negatives_are_read_from_file_and_command_line(tmp_path):
    (tmp_path / "r.yaml").write_text("doubtful_weight: 0.25\nweigh_changed_words: true\n")
    for given in (
        ["--config", str(tmp_path / "r.yaml")],
        ["--doubtful-weight", "0.25", "--weigh-changed-words", "true"],
    ):
        data = parse_recipe([*given, "--output-dir", str(tmp_path)]).data
        assert (data.doubtful_weight, data.weigh_changed_words) == (0.25, True)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_recipes_are_valid(path):
    recipe = parse_recipe(["--config", str(path)])
    recipe.config_overrides()
    assert recipe.training.output_dir


def test_command_line_overrides_the_file(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "learning_rate: 1e-3\nfine_margins: [0.1, 0.2]\nvideo_features: 'simulated:'\nhidden_size: 64\n"
    )
    recipe = parse_recipe(["--config", str(tmp_path / "r.yaml"), "--learning_rate", "2e-3", "--output_dir", "x"])
    assert recipe.training.learning_rate == 2e-3 and recipe.training.fine_margins == [0.1, 0.2]
    assert recipe.data.video_features == ["simulated:"] and recipe.config_overrides() == {"hidden_size": 64}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("learning_rat: 1e-3", [], r"unknown key 'learning_rat' \(did you mean 'learning_rate'\?\)"),
        ("- a\n- b", [], "a recipe must be a mapping"),
        ("model: detr", [], "unknown model 'detr'"),
        (
            "irrelevant: random",
            ["--fine_weigth", "1"],
            r"unknown option '--fine_weigth' \(did you mean 'fine_weight'\?\)",
        ),
        ("compare_to: last", [], "compare_to must be"),
        ("fine_distance: last", [], "fine_distance must be one of cross_entropy, saliency"),
        ("doubtful_weight: 2", [], "doubtful_weight must be from 0 to 1, got 2"),
        ("decoder_negative_form: max", [], "decoder_negative_form must be one of background, ranking, got 'max'"),
        ("top_k_divisor: 0", [], "top_k_divisor must be at least 1"),
        ("learning_rate: fast", [], "the command line could not be read"),
    ],
)
def test_invalid_settings_are_rejected_with_their_name(tmp_path, text, options, message):
    (tmp_path / "r.yaml").write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        parse_recipe(["--config", str(tmp_path / "r.yaml"), "--output_dir", str(tmp_path), *options])


def test_setting_of_the_other_model_is_rejected():
    recipe = parse_recipe(["--config", "charades_cg_moment_detr_base", "--text_to_video_layers", "3"])
    with pytest.raises(ValueError, match="not a setting of moment_detr: text_to_video_layers"):
        recipe.config_overrides()


def test_command_line_errors_are_one_line(capsys):
    assert main(["train", "--config", "no_such_recipe"]) == 2
    assert "the packaged ones are: " in capsys.readouterr().err
