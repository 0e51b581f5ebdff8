"""The packaged Accelerate configs are valid. FSDP and DeepSpeed need GPUs, so those are parsed but not run."""

import os
import subprocess
import sys

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from ..modeling.helpers import tiny_model
from .runs import CONFIGS, REPOSITORY


@pytest.mark.parametrize(
    ("name", "launcher"), [("cpu", "multi_gpu"), ("multi_gpu", "multi_gpu"), ("fsdp", "use_fsdp"), ("deepspeed", "use_deepspeed")]
)  # fmt: skip
def test_accelerate_config_starts_several_processes(name, launcher):
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


SHARDED = """
import sys
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from shine_hf.training.checkpoints import load_full_weights
from tests.modeling.helpers import tiny_model

distributed.init_process_group("gloo")
torch.manual_seed(1)
model = tiny_model("qd_detr")
fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
saved = {name: torch.full(tuple(weight.shape), float(index)) for index, (name, weight) in enumerate(model.state_dict().items())}
if distributed.get_rank() == 0:
    from safetensors.torch import save_file
    save_file(saved, sys.argv[1] + "/model.safetensors")
load_full_weights(model, sys.argv[1])
for name, weight in model.state_dict().items():
    assert isinstance(weight, DTensor) and (weight.full_tensor() == saved[name]).all(), name
distributed.destroy_process_group()
print("loaded")
"""


@pytest.mark.slow
def test_best_weights_are_loaded_into_a_sharded_model(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(tmp_path),
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=120
    )
    # Do not check the exit status: gloo's threads sometimes abort a process that has finished its work (torch 2.13).
    assert done.stdout.count("loaded") == 2, done.stderr[-3000:]
