"""A plain training script as DeepSpeed's documentation has it, with MLflow. Run: torchrun --nproc-per-node 2 FILE PLAN MARKS"""

import json
import sys
import time

import deepspeed
import mlflow
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

from orchestrator.jobs.image_classification import SmallResNet, digits

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or its first start compiles for minutes
plan = json.load(open(sys.argv[1]))
config = plan["rows"][-1]["deepspeed"]
model_args = {key: value for key, value in plan["spec"]["model"].items() if key != "_target_"}
torch.set_num_threads(1)
torch.manual_seed(0)
dist.init_process_group("gloo")
rank = dist.get_rank()
train = digits("train")
loader = DataLoader(
    train, batch_size=config["train_micro_batch_size_per_gpu"], sampler=DistributedSampler(train), drop_last=True
)
model = SmallResNet(**model_args)
engine, optimizer, _, _ = deepspeed.initialize(
    model=model, model_parameters=model.parameters(), config=config, dist_init_required=False
)
if rank == 0:
    mlflow.set_tracking_uri(f"sqlite:///{sys.argv[2]}.db")
    mlflow.start_run()
step, steps, marks = 0, plan["spec"]["job"]["steps"], {}
while step < steps:
    for images, labels in loader:
        started = time.perf_counter()
        loss = cross_entropy(engine(images), labels)
        engine.backward(loss)
        engine.step()
        step += 1
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        seconds = time.perf_counter() - started
        if rank == 0:
            mlflow.log_metrics({"train/loss": mean.item() / dist.get_world_size(), "train/learning_rate": optimizer.param_groups[0]["lr"],
                                "train/grad_norm": float(engine.get_global_grad_norm() or 0), "train/step_time": seconds,
                                "train/samples_per_second": config["train_batch_size"] / seconds}, step=step)  # fmt: skip
            marks[step] = time.time()
        if step == steps:
            break
if rank == 0:
    mlflow.end_run()
    json.dump(marks, open(sys.argv[2], "w"))
dist.barrier()
dist.destroy_process_group()
