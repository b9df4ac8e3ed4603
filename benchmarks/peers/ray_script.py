"""A plain Ray Train script around the DeepSpeed one, as Ray's documentation has it. Run: python FILE PLAN MARKS"""

import sys

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train(arguments):
    import runpy

    import torch.distributed as dist

    dist.init_process_group, sys.argv = lambda backend: None, ["script", *arguments["argv"]]  # Ray has made the group
    runpy.run_path(arguments["script"], run_name="__main__")


ray.init("local")  # not a cluster that happens to run here
arguments = {"script": __file__.replace("ray_script", "deepspeed_script"), "argv": sys.argv[1:]}
scaling = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})
TorchTrainer(
    train, train_loop_config=arguments, scaling_config=scaling, torch_config=TorchConfig(backend="gloo"),
    run_config=RunConfig(storage_path=sys.argv[2] + ".ray"),
).fit()  # fmt: skip
