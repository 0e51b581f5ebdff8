"""Studies on a made-up dataset, from the study file to the tables, including studies that stop or fail."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from datasets import Dataset

from benchmarks.study import other_videos
from benchmarks.study.__main__ import main
from benchmarks.study.charades_files import calibration_splits, pairs_of
from benchmarks.study.fine_gradients import main as gradients_main
from benchmarks.study.other_queries import OTHER_QUERIES, OTHER_VIDEO, with_level, with_other_video
from benchmarks.study.other_queries import main as other_queries_main
from benchmarks.study.overview import ROWS, overview_figure, read_differences, write_overview
from benchmarks.study.pooled import Pair, pool
from benchmarks.study.pooled import main as pooled_main
from benchmarks.study.records import Run, read_record, write_record
from benchmarks.study.report import SELECTED_ON, compare, comparison_table, results_table
from benchmarks.study.reranking import main as rerank_main
from benchmarks.study.spec import REPOSITORY, read_study, study_names
from benchmarks.study.swaps import RIGHT, gain, write_results
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.training.recipe import make_parser

from ..made_up import write_charades_cg

RECIPE = {
    "dataset": "charades_cg", "video_features": ["simulated:dim=8"], "text_features": "words:dim=8", "hidden_size": 8, "num_attention_heads": 2,
    "intermediate_size": 8, "num_queries": 2, "validation_fraction": 0.2, "per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1,
    "eval_strategy": "steps", "eval_steps": 2, "save_steps": 1, "metric_for_best_model": "validation_mIoU", "report_to": "none",
}  # fmt: skip
STUDY = {
    "title": "Made up", "features": "simulated features", "seeds": [0], "splits": ["test_trivial", "novel_word"],
    "variants": {"base": {"coarse_weight": 0, "fine_weight": 0}, "shine": {}}, "comparisons": [["shine", "base"]],
}  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_charades_cg(tmp_path / "data")

    def write(**keys):
        recipe = {**RECIPE, "data_dir": str(tmp_path / "data"), **keys.pop("recipe", {})}
        (tmp_path / "made_up.yaml").write_text(yaml.safe_dump({**STUDY, "recipe": recipe, **keys}))
        return ["made_up.yaml", "--results", "results"]

    return write


def test_study_runs_once_and_writes_tables_figures_and_run_jsons(study, tmp_path, capsys):
    command = study(prepare=["python -c \"open('made.txt', 'a').write('once')\""])
    assert main([*command, "--prepare-only"]) == 0
    assert (tmp_path / "made.txt").read_text() == "once" and not (tmp_path / "results").exists()
    assert main([*command, "--workers", "2"]) == 0
    written = (tmp_path / "results" / "README.md").read_text()
    assert capsys.readouterr().out.strip() in written and "**Features: simulated features.**" in written
    assert "| novel_word | shine − base | 1 |" in written
    for variant in ("base", "shine"):
        run = json.loads((tmp_path / "results" / "runs" / f"{variant}_seed0.json").read_text())
        finished = json.loads(
            (tmp_path / "outputs/studies/made_up" / f"{variant}_seed0" / "all_results.json").read_text()
        )
        assert run["results"]["test_trivial_mIoU"] == pytest.approx(finished["test_trivial_mIoU"], abs=1e-4)
        assert [step for step, _ in run["curve"]] == [2]
        lines = (
            (tmp_path / "outputs/studies/made_up" / f"{variant}_seed0" / "queries" / "test_trivial.jsonl")
            .read_text()
            .splitlines()
        )
        assert 100 * sum(json.loads(line)["iou"] for line in lines) / len(lines) == pytest.approx(
            finished["test_trivial_mIoU"]
        )
    card = tmp_path / "outputs/studies/made_up/base_seed0/README.md"
    assert "(simulated features)" in card.read_text()
    for figure in ("results.png", "validation.png"):
        assert (tmp_path / "results" / figure).stat().st_size > 5000
    # Run it again: nothing is trained, and the same files are written.
    log = tmp_path / "outputs/studies/made_up/base_seed0/log.txt"
    before = log.read_text()
    assert main(command) == 0
    assert log.read_text() == before and (tmp_path / "made.txt").read_text() == "once"
    assert (tmp_path / "results" / "README.md").read_text() == written
    # Nor on another machine, which has only the records. With other settings, they cannot be used.
    shutil.rmtree(tmp_path / "outputs")
    records = {path.name: path.read_text() for path in (tmp_path / "results/runs").iterdir()}
    assert main(command) == 0
    assert not list((tmp_path / "outputs/studies/made_up").glob("*_seed*"))
    assert (tmp_path / "results" / "README.md").read_text() == written
    assert {path.name: path.read_text() for path in (tmp_path / "results/runs").iterdir()} == records
    with pytest.raises(
        ValueError, match=r"results: shine, seed 0, was started with other settings than made_up has now"
    ):
        main(study(variants={**STUDY["variants"], "shine": {"learning_rate": 1e-3}}))


@pytest.mark.slow
def test_scripts_reuse_trained_runs(study, tmp_path, capsys):
    command = study(recipe={"negatives": "gpt-3.5-turbo"})
    assert main(command) == 0
    before = json.loads((tmp_path / "results/runs/shine_seed0.json").read_text())["results"]
    assert rerank_main(["made_up.yaml", "--weights", "0", "--results", "reranked"]) == 0
    # A weight of 0 reproduces the results of the run.
    after = json.loads((tmp_path / "reranked/runs/shine_saliency_seed0.json").read_text())["results"]
    assert after["test_trivial_mIoU"] == pytest.approx(before["test_trivial_mIoU"], abs=1e-3)
    assert "python -m benchmarks.study.reranking made_up" in (tmp_path / "reranked/README.md").read_text()
    capsys.readouterr()
    assert gradients_main(["made_up.yaml", "--variants", "shine"]) == 0
    printed = capsys.readouterr().out
    assert "shine, seed 0:" in printed and "saliency gradient" in printed and "nan" not in printed
    assert other_queries_main(["made_up.yaml", "--results", "others"]) == 0
    assert other_videos.main(["made_up.yaml", "--results", "videos"]) == 0
    assert f"| test_trivial | base | {other_videos.OTHER_VIDEO} | 1 |" in (tmp_path / "videos/README.md").read_text()
    gains = json.loads((tmp_path / "others/summary.json").read_text())
    assert {(entry["variant"], entry["baseline"]) for entry in gains} == {
        ("base", None),
        ("shine", None),
        ("shine", "base"),
    }
    # Evaluated results are kept: the same command needs no model.
    (tmp_path / "outputs/studies/made_up/shine_seed0/model.safetensors").unlink()
    assert other_queries_main(["made_up.yaml", "--results", "again"]) == 0
    assert json.loads((tmp_path / "again/summary.json").read_text()) == gains
    # These test queries have no hard negatives.
    assert {entry["inputs"] for entry in gains} == {OTHER_VIDEO} and any(entry["mean"] for entry in gains)
    assert pooled_main(["made_up.yaml", "--results", "pooled"]) == 0
    single, pooled = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("results", "pooled"))
    # A summary has six decimals.
    assert [entry["mean"] for entry in pooled] == pytest.approx([entry["mean"] for entry in single], abs=1e-6)
    # The right query has the results of the study.
    row = f"| test_trivial | shine | right | 1 | {before['test_trivial_R1@0.5']:.1f} | {before['test_trivial_mIoU']:.1f} |"
    assert row in (tmp_path / "others/README.md").read_text()


@pytest.mark.slow
def test_variants_and_seeds_can_be_selected(study, tmp_path, capsys):
    command = study(seeds=[0, 1])
    assert main([*command, "--variants", "shine", "--seeds", "1"]) == 0
    assert [path.name for path in (tmp_path / "outputs/studies/made_up").glob("*_seed*")] == ["shine_seed1"]
    for option, value in (("--variants", "shiny"), ("--seeds", "2")):
        with pytest.raises(SystemExit):
            main([*command, option, value])
        assert f"{option}: made_up has no {value}; it has " in capsys.readouterr().err


@pytest.mark.slow
def test_failed_run_stops_the_study_and_shows_its_error(study):
    with pytest.raises(RuntimeError, match=r"(?s)ended with status .*unknown key 'no_such_key'"):
        main(study(recipe={"no_such_key": 1}))


@pytest.mark.slow
def test_error_names_the_failed_run_and_not_the_runs_stopped_with_it(study, tmp_path):
    # The first run would take very long; it is stopped when the second one fails.
    variants = {"endless": {"max_steps": 10**6, "save_steps": 10**6}, "broken": {"no_such_key": 1}}
    variants["waiting"] = {}
    with pytest.raises(RuntimeError, match=r"(?s)broken_seed0.*unknown key 'no_such_key'"):
        main([*study(variants=variants, comparisons=[]), "--workers", "2"])
    # A run that has not started leaves no folder, so its settings can still be changed.
    assert not (tmp_path / "outputs/studies/made_up/waiting_seed0").exists()


@pytest.mark.slow
def test_runs_with_other_settings_are_not_resumed_or_reported(study):
    assert main(study(comparisons=[], variants={"shine": {}})) == 0
    with pytest.raises(ValueError, match=r"made_up/shine_seed0: .* was started with other settings.*: remove it"):
        main(study(comparisons=[], variants={"shine": {"learning_rate": 1e-3}}))
    command = [*study(comparisons=[], variants={"shine": {}})[:-1], "other"]
    assert main([*command, "--", "--max_steps", "1"]) == 0
    with pytest.raises(ValueError, match=r"other/shine_seed0: .* was started with other settings.*: remove it"):
        main([*command, "--", "--max_steps", "3"])


@pytest.mark.slow
def test_stopped_study_saves_and_resumes(study, tmp_path):
    command = study(variants={"shine": {"max_steps": 500, "save_steps": 500}}, comparisons=[])
    folder = tmp_path / "outputs/studies/made_up/shine_seed0"
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.study", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while "'loss'" not in (folder / "log.txt").read_text() if (folder / "log.txt").is_file() else True:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to resume" in errors
    (checkpoint,) = folder.glob("checkpoint-*")
    assert main(command) == 0
    assert f"resuming from outputs/studies/made_up/shine_seed0/{checkpoint.name}" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("name", study_names())
def test_packaged_studies_are_valid(name):
    study = read_study(name)
    options = {action.dest for action in make_parser()._actions}
    keys = set(study.recipe).union(*study.variants.values())
    assert keys <= options, f"no keys of a recipe: {keys - options}"
    assert study.features and study.splits and study.seeds


@pytest.mark.parametrize("name", [name for name in study_names() if read_study(name).runs_of])
def test_packaged_studies_share_runs_with_the_same_recipe(name):
    study = read_study(name)
    for variant, source in study.runs_of.items():
        other, of_variant = source.split("/")
        other = read_study(other)
        assert set(study.seeds) <= set(other.seeds) and set(study.splits) <= {*other.splits, SELECTED_ON}
        for seed in study.seeds:
            assert yaml.safe_load(study.recipe_of(variant, seed)) == yaml.safe_load(other.recipe_of(of_variant, seed))


@pytest.mark.slow
def test_runs_of_another_study_are_not_trained_again(study, tmp_path):
    command = study()
    assert main(command) == 0
    keys = yaml.safe_load((tmp_path / "made_up.yaml").read_text())
    parts = {**keys, "variants": {"whole": {}, "coarse": {"fine_weight": 0}}, "comparisons": [["coarse", "whole"]]}
    parts["runs_of"] = {"whole": "made_up/shine"}
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump(parts))
    assert main(["parts.yaml", "--results", "parts"]) == 0
    assert [path.name for path in (tmp_path / "outputs/studies/parts").glob("*_seed*")] == ["coarse_seed0"]
    # Its record stays in the other study.
    assert [path.name for path in (tmp_path / "parts/runs").iterdir()] == ["coarse_seed0.json"]
    own, other = (
        next(
            line
            for line in (tmp_path / path).read_text().splitlines()
            if line.startswith(f"| novel_word | {variant} |")
        )
        for path, variant in (("parts/README.md", "whole"), ("results/README.md", "shine"))
    )
    assert own.split("|")[3:] == other.split("|")[3:]
    # A variant that differs cannot use them.
    parts["variants"]["whole"] = {"learning_rate": 1e-3}
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump(parts))
    with pytest.raises(
        ValueError, match=r"made_up/shine_seed0: whole, seed 0, was started with other settings than parts has now"
    ):
        main(["parts.yaml", "--results", "parts"])


def test_overrides_require_their_own_results_folder(study, capsys):
    with pytest.raises(SystemExit):
        main(["made_up.yaml", "--", "--max_steps", "1"])
    assert "overrides need a --results folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["made_up.yaml", "--results", "other", "--", "--video_features", "i3d:X"])
    assert "--features is required" in capsys.readouterr().err


@pytest.mark.slow
def test_tables_list_the_overrides(study, tmp_path):
    command = [
        *study(variants={"shine": {}}, comparisons=[], note="A note that holds without overrides."),
        "--features",
        "of another width",
    ]
    assert main([*command, "--", "--max_steps", "1", "--video_features", "simulated:dim=4"]) == 0
    written = (tmp_path / "results" / "README.md").read_text()
    assert "**Features: of another width.**" in written and "A note that holds without overrides." not in written
    assert written.count("-- --max_steps 1 --video_features simulated:dim=4") == 1
    assert "overridden by `--max_steps 1 --video_features simulated:dim=4`" in written
    assert (tmp_path / "outputs/studies/results/shine_seed0/recipe.yaml").is_file()


def test_unknown_studies_keys_and_variants_are_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no study 'nothing'; there are: .*simulation"):
        read_study("nothing")
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "recipe": {}, "seed": 3}))
    with pytest.raises(ValueError, match=r"a.yaml: .*unexpected keyword argument 'seed'"):
        read_study(str(path))
    path.write_text(yaml.safe_dump({**STUDY, "recipe": {}, "comparisons": [["shine", "bas"]]}))
    with pytest.raises(ValueError, match="comparisons or runs_of names bas, which is not a variant"):
        read_study(str(path))
    path.write_text(yaml.safe_dump({**STUDY, "recipe": {}, "runs_of": {"shine": "other_study"}}))
    with pytest.raises(ValueError, match="runs_of names other_study; write STUDY/VARIANT"):
        read_study(str(path))


def test_study_extends_another_study(tmp_path):
    base = {**STUDY, "recipe": {"max_steps": 5, "learning_rate": 0.1}, "prepare": ["python a.py"]}
    (tmp_path / "_base.yaml").write_text(yaml.safe_dump(base))
    own = {
        "extends": "_base",
        "recipe": {"max_steps": 7},
        "prepare": ["python b.py"],
        "seeds": [1, 2],
        "title": "Longer",
    }
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(own))
    study = read_study(str(tmp_path / "longer.yaml"))
    assert study.name == "longer" and study.title == "Longer" and study.features == STUDY["features"]
    assert study.recipe == {"max_steps": 7, "learning_rate": 0.1} and study.seeds == [1, 2]
    assert study.prepare == ["python a.py", "python b.py"]
    assert not [name for name in study_names() if name.startswith("_")]


# ---- the report ------------------------------------------------------------------------------------------------------


def made_up_run(variant, seed, ious, levels):
    queries = [
        {
            "qid": f"q{i}",
            "vid": f"v{i // 2}",
            "iou": iou,
            "saliency": [1.0, level, None, 0.0] if level is not None else [1.0, 0.0],
        }
        for i, (iou, level) in enumerate(zip(ious, levels))
    ]
    return Run(variant, seed, {"test_mIoU": 100 * sum(ious) / len(ious)}, [], {"test": queries})


@pytest.fixture
def made_up_study(tmp_path):
    path = tmp_path / "made_up.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "recipe": {}, "splits": ["test"], "seeds": [0, 1]}))
    return read_study(str(path))


def test_tables_show_means_deviations_and_paired_differences(made_up_study):
    runs = [
        made_up_run("base", 0, [0.4, 0.4, 0.6, 0.6], [0.5, 2.0, 2.0, None]),
        made_up_run("base", 1, [0.4, 0.4, 0.4, 0.6], [0.5, 2.0, 2.0, None]),
        made_up_run("shine", 0, [0.6, 0.6, 0.8, 0.8], [0.5, 0.5, 0.5, None]),
        made_up_run("shine", 1, [0.6, 0.6, 0.6, 0.8], [0.5, 0.5, 0.5, None]),
    ]
    assert "| test | base | 2 | 47.5 ± 3.5 |" in results_table(made_up_study, runs)
    found = {entry["metric"]: entry for entry in compare(made_up_study, runs)}
    assert found["mIoU"]["mean"] == pytest.approx(20) and found["mIoU"]["low"] < 20
    assert found["R1@0.5"]["mean"] == pytest.approx(100 * (1 - 3 / 8))
    # Rows without a first level do not count for its order.
    assert found["positive>level1"]["mean"] == pytest.approx(100 * 2 / 3)
    clear, unclear = {**found["mIoU"], "low": 1.0, "high": 39.0}, {**found["mIoU"], "low": -1.0, "high": 41.0}
    assert "**+20.0 (+1.0 to +39.0)**" in comparison_table([clear])
    assert "| +20.0 (-1.0 to +41.0) |" in comparison_table([unclear])


def test_recorded_run_has_the_same_comparisons(made_up_study, tmp_path):
    # 0.7 as float32 is below the threshold and must not be rounded to it.
    ious = [0.3, 0.5, 0.7, float(np.float32(0.7)), 0.49999999, 0.29, 0.0, 1.0]
    levels = [0.5, 1.0, 2.0, None, 0.5, 2.0, 2.0, 1e-9]
    runs = [made_up_run("base", 0, ious, levels), made_up_run("shine", 0, ious[::-1], levels[1:] + levels[:1])]
    for run in runs:
        write_record(tmp_path, run, "made-up", {})
    recorded = [read_record(tmp_path, run.variant, run.seed)[0] for run in runs]
    expected, found = compare(made_up_study, runs), compare(made_up_study, recorded)
    for one, other in zip(expected, found, strict=True):
        assert one.pop("metric") == other.pop("metric")
        for name in ("mean", "low", "high"):
            assert other[name] == pytest.approx(one[name], abs=0.02)
    thresholds = [
        [query["iou"] >= threshold for query in recorded[0].queries["test"]] for threshold in (0.3, 0.5, 0.7)
    ]
    assert thresholds == [[iou >= threshold for iou in ious] for threshold in (0.3, 0.5, 0.7)]
    with pytest.raises(ValueError, match=r"base_seed1 was evaluated on other queries .* remove that folder"):
        write_record(tmp_path, made_up_run("base", 1, [0.5], [0.5]), "made-up", {})
    for damaged in ('{"test": [["q0", "v0"]]}', "{}"):
        (tmp_path / "queries.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"base_seed0.json: its queries do not fit .*queries.json: restore both"):
            read_record(tmp_path, "base", 0)


def test_earlier_comparison_of_more_seeds_is_kept(made_up_study):
    base, shine = (made_up_run(variant, 0, [0.4, 0.6], [0.5, 0.5]) for variant in ("base", "shine"))
    old = dataclasses.replace(base, seed=1, queries={})  # an old record, without the results of the queries
    earlier = {"variant": "shine", "baseline": "base", "split": "test", "metric": "mIoU", "seeds": 2}
    assert list(compare(made_up_study, [base, old, shine], [earlier])) == [earlier]
    assert earlier not in list(compare(made_up_study, [base, old, shine], [{**earlier, "seeds": 1}]))
    assert "| test | base | 2 | 50.0 ± 0.0 |" in results_table(made_up_study, [base, old, shine])


def test_runs_on_different_queries_are_not_compared(made_up_study):
    runs = [made_up_run("base", 0, [0.4], [0.5]), made_up_run("shine", 0, [0.4, 0.5], [0.5, 0.5])]
    with pytest.raises(ValueError, match="not evaluated on the same queries"):
        list(compare(made_up_study, runs))


def test_pooled_difference_is_the_mean_over_studies(made_up_study):
    base = [made_up_run("base", seed, [0.4, 0.4, 0.4, 0.4], [2.0] * 4) for seed in (0, 1)]
    better = [made_up_run("shine", seed, [0.6, 0.6, 0.4, 0.4], [0.5] * 4) for seed in (0, 1)]
    much_better = [made_up_run("shine", seed, [0.8, 0.8, 0.4, 0.4], [2.0] * 4) for seed in (0, 1)]
    other = dataclasses.replace(made_up_study, name="other")
    pair = Pair(made_up_study, base + better, "shine", "base")
    pooled = pool([pair, Pair(other, base + much_better[:1], "shine", "base")])
    found = {entry["metric"]: entry for entry in pooled}
    # (10 + 20) / 2, over the seed that both studies have.
    assert found["mIoU"]["mean"] == pytest.approx(15) and found["mIoU"]["seeds"] == 1
    assert found["R1@0.5"]["mean"] == pytest.approx(50) and found["positive>level1"]["mean"] == pytest.approx(50)
    shorter = [made_up_run(variant, 0, [0.4], [0.5]) for variant in ("base", "shine")]
    with pytest.raises(ValueError, match="test: the studies were not evaluated on the same queries"):
        pool([pair, pair._replace(runs=shorter)])
    with pytest.raises(ValueError, match="the studies have different splits"):
        pool([pair, pair._replace(study=dataclasses.replace(other, splits=["else"]))])


def test_overview_shows_the_comparisons_with_several_seeds(tmp_path):
    entry = {"variant": "qd_detr_shine", "baseline": "qd_detr_base", "split": "novel_word", "metric": "R1@0.5"}
    entry |= {"seeds": 5, "mean": 2.0, "low": -1.0, "high": 5.0}
    studies = {
        "charades_real": [entry, {**entry, "variant": "moment_detr_shine", "baseline": "moment_detr_base"}],
        "charades_main": [{**entry, "seeds": 1}, {**entry, "variant": "light"}],
        "charades_real_variants": [entry],
    }
    for name, entries in studies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(entries))
    differences = read_differences(tmp_path)
    assert [row.variant for row in differences] == ["qd_detr_shine", "moment_detr_shine"]
    moments, order = overview_figure(differences).axes
    assert [label.get_text().split("\n")[1] for label in moments.get_yticklabels()] == [
        "QD-DETR, SHINE, 5 seeds",
        "Moment-DETR, SHINE, 5 seeds",
    ]
    assert [list(line.get_xdata()) for line in moments.lines] == [[0, 0], *[[-1.0, 5.0], [2.0]] * 2]
    assert len(order.lines) == 1
    write_overview(tmp_path)
    assert (tmp_path / "overview.png").stat().st_size > 5000


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.study}-{row.variant}")
def test_every_row_of_the_overview_is_a_comparison_of_its_study(row):
    if row.study != "charades_real_pooled":  # written by benchmarks.study.pooled
        assert [row.variant, row.baseline] in read_study(row.study).comparisons


# ---- other queries ---------------------------------------------------------------------------------------------------


def test_other_queries_keep_the_rest_of_the_rows():
    rows = Dataset.from_list([
        {"qid": f"q{i}", "vid": f"v{i // 2}", "query": f"query {i}", "negative_queries": ["near", "" if i else "far"]}
        for i in range(6)
    ])  # fmt: skip
    others = with_other_video(rows, seed=0)
    assert others["qid"] == rows["qid"] and others["vid"] == rows["vid"] and not any(others["negative_queries"])
    videos = dict(zip(rows["query"], rows["vid"]))
    assert all(videos[row["query"]] != row["vid"] for row in others)
    assert with_other_video(rows, seed=0)["query"] == others["query"] != with_other_video(rows, seed=1)["query"]
    assert with_level(rows, 1)["query"] == ["near"] * 6
    assert (with_level(rows, 2)["qid"], with_level(rows, 2)["query"]) == (["q0"], ["far"])
    assert len(with_level(rows, 3)) == 0
    assert len(with_other_video(rows.select([0, 1]), seed=0)) == 0


def test_other_videos_keep_the_queries():
    rows = Dataset.from_list([
        {"qid": f"q{i}", "query": f"query {i}", "negative_queries": [f"near {i}"], "negative_flags": [[f"flag {i}"]],
         "vid": f"v{i // 2}", "duration": 10.0 + i // 2, "relevant_windows": [[0.0, i]]}
        for i in range(6)
    ])  # fmt: skip
    others = other_videos.with_other_video(rows, seed=0)
    for name in ("qid", "query", "negative_queries", "negative_flags"):
        assert others[name] == rows[name]
    assert all(one != other for one, other in zip(rows["vid"], others["vid"]))
    videos = {(row["vid"], row["duration"], tuple(row["relevant_windows"][0])) for row in rows}
    assert {(row["vid"], row["duration"], tuple(row["relevant_windows"][0])) for row in others} <= videos
    assert len(other_videos.with_other_video(rows.select([0, 1]), seed=0)) == 0


def test_gain_is_the_result_with_the_right_query_minus_that_with_another(made_up_study, tmp_path):
    def rows(*ious):
        return [{"qid": f"q{i}", "vid": f"v{i}", "iou": iou} for i, iou in enumerate(ious) if iou is not None]

    results = {
        ("base", "test", RIGHT): {0: rows(0.6, 0.6, 0.1), 1: rows(0.2, 0.2, 0.2)},
        ("base", "test", OTHER_VIDEO): {0: rows(0.6, 0.1, None), 1: rows(0.2, 0.3, None)},
        ("shine", "test", RIGHT): {1: rows(0.8, 0.8, 0.8)},
        ("shine", "test", OTHER_VIDEO): {1: rows(0.1, 0.2, None)},
    }
    found = gain(results, "base", "test", OTHER_VIDEO, "R1@0.5", [0, 1])
    np.testing.assert_array_equal(found, [[0, 100, np.nan], [0, 0, np.nan]])
    tables = write_results(OTHER_QUERIES, made_up_study, results, tmp_path)
    assert f"| test | base | {OTHER_VIDEO} | 2 | +25.0 (" in tables
    # Variants are compared on the seeds that both have: 100 points against 0.
    assert f"| test | shine − base | {OTHER_VIDEO} | 1 | +100.0 (" in tables
    assert f"| test | base | {RIGHT} | 2 | 33.3 |" in tables


# ---- the calibration splits ------------------------------------------------------------------------------------------


def test_calibration_training_lacks_novel_pairs_but_has_their_words(shared):
    from benchmarks.study.charades_files import MIN_TRAINING_QUERIES, NOVEL_ROWS
    from shine_hf.data.annotations import read_original
    from shine_hf.data.selection import training_rows

    rows = training_rows(read_original("charades_cg", shared / "data", negatives="none")["train"])
    splits = calibration_splits(rows)
    tagger = Tagger()
    pairs = {
        name: [pairs_of(query) for query in tagger.tag(row["query"] for row in split)]
        for name, split in splits.items()
    }
    seen = set().union(*pairs["train"], *pairs["seen"])
    assert len(splits["novel"]) >= NOVEL_ROWS and all(query - seen for query in pairs["novel"])
    videos = {name: {row["vid"] for row in split} for name, split in splits.items()}
    assert not videos["train"] & (videos["seen"] | videos["novel"])
    words = [{word for pair in query for word in pair} for query in pairs["train"]]
    for query in pairs["novel"]:
        # At least one pair is new, although both of its words are frequent in training.
        assert any(
            all(sum(word in known for known in words) >= MIN_TRAINING_QUERIES for word in pair)
            for pair in query - seen
        )
