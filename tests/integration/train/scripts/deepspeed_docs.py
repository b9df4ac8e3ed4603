"""A training script as DeepSpeed's documentation has them: arguments by argparse, a config file, its own checkpoints."""

import argparse
import os
import signal

import deepspeed
import torch
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int, default=-1)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--save", default="checkpoints")
parser.add_argument("--die-at", type=int, default=-1)
parser.add_argument("--fail-at", type=int, default=-1)
parser = deepspeed.add_config_arguments(parser)
args = parser.parse_args()

deepspeed.init_distributed(dist_backend="gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
data = torch.utils.data.TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
engine, _, loader, _ = deepspeed.initialize(args=args, model=net, model_parameters=net.parameters(), training_data=data)
engine.load_checkpoint(args.save)
print(f"rank {rank} begins at step {engine.global_steps}")
resumed = engine.global_steps > 0
batches = iter(deepspeed.runtime.dataloader.RepeatingLoader(loader))
while engine.global_steps < args.steps:
    x, y = next(batches)
    loss = torch.nn.functional.cross_entropy(engine(x), y)
    engine.backward(loss)
    engine.step()
    if engine.global_steps % 10 == 0:
        engine.save_checkpoint(args.save)
    if engine.global_steps == args.die_at and rank == 1 and not resumed:
        os.kill(os.getpid(), signal.SIGKILL)
    if engine.global_steps == args.fail_at and rank == 1:
        raise ValueError("this goes wrong")
print(f"rank {rank} ends at step {engine.global_steps}")
