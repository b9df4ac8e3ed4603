"""A plain Ray Train script, as Ray's documentation has it. Run: ray job submit -- python FILE MARK STORAGE"""

import sys
import time

import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, prepare_data_loader, prepare_model
from sklearn.datasets import load_diabetes
from torch.utils.data import DataLoader, TensorDataset


def train_func(config):
    data = load_diabetes()
    features = torch.tensor(data.data, dtype=torch.float32)
    targets = torch.tensor(data.target, dtype=torch.float32)[:, None]
    targets = (targets - targets.mean()) / targets.std()
    loader = prepare_data_loader(DataLoader(TensorDataset(features, targets), batch_size=16, shuffle=True))
    model = prepare_model(
        torch.nn.Sequential(
            torch.nn.Linear(10, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(2):
        for step, (x, y) in enumerate(loader):
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if epoch == step == 0 and train.get_context().get_world_rank() == 0:
                with open(config["mark"], "w") as mark:
                    mark.write(str(time.time()))
        train.report({"loss": loss.item(), "epoch": epoch})


TorchTrainer(
    train_func,
    train_loop_config={"mark": sys.argv[1]},
    scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
    torch_config=TorchConfig(backend="gloo"),
    run_config=RunConfig(storage_path=sys.argv[2]),
).fit()
