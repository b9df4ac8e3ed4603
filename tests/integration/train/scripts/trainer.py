"""A training script with transformers' Trainer and its deepspeed argument."""

import argparse
import os

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

parser = argparse.ArgumentParser()
parser.add_argument("--deepspeed")
parser.add_argument("--out")
parser.add_argument("--micro-batch", type=int)
parser.add_argument("--accumulation", type=int)
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def forward(self, pixels, labels):
        logits = self.layers(pixels)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


images, labels = load_digits(return_X_y=True)
rows = [
    {"pixels": torch.tensor(x, dtype=torch.float32) / 16, "labels": int(y)} for x, y in zip(images, labels, strict=True)
]
settings = TrainingArguments(
    output_dir=args.out,
    deepspeed=args.deepspeed,
    per_device_train_batch_size=args.micro_batch,
    gradient_accumulation_steps=args.accumulation,
    max_steps=args.steps,
    save_steps=args.steps // 2,
    logging_steps=5,
    learning_rate=1e-3,
    max_grad_norm=0.0,
    report_to=["mlflow"],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(model=Net(), args=settings, train_dataset=rows)
last_checkpoint = get_last_checkpoint(args.out) if os.path.isdir(args.out) else None  # noqa: PTH112
if last_checkpoint:
    print(f"Checkpoint detected, resuming training at {last_checkpoint}.")
result = trainer.train(resume_from_checkpoint=last_checkpoint)
print(f"trained {result.global_step} steps")
