"""The packaged configs are what Accelerate takes for them. FSDP and DeepSpeed need GPUs: here they are read, not run."""

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from ..modeling.helpers import tiny_model
from .runs import CONFIGS


@pytest.mark.parametrize(
    ("name", "launcher"), [("cpu", "multi_gpu"), ("multi_gpu", "multi_gpu"), ("fsdp", "use_fsdp"), ("deepspeed", "use_deepspeed")]
)  # fmt: skip
def test_accelerate_starts_several_processes_with(name, launcher):
    path = str(CONFIGS / f"{name}.yaml")
    assert isinstance(load_config_from_file(path), ClusterConfig)
    arguments = launch_command_parser().parse_args(["--config_file", path, "train.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert getattr(arguments, launcher) and arguments.num_processes == 2 and arguments.main_process_port == 0


def test_every_packaged_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"cpu", "multi_gpu", "fsdp", "deepspeed"}


@pytest.mark.parametrize("model", ["qd_detr", "moment_detr"])
def test_fsdp_wraps_layers_that_the_models_have(model):
    wrapped = load_config_from_file(str(CONFIGS / "fsdp.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    assert set(wrapped.split(",")) <= {type(module).__name__ for module in tiny_model(model).modules()}
