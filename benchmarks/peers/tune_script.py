"""Plain Ray Tune around the DeepSpeed training of each trial, as Ray's documentation has it. Run: python FILE PLAN WAY TRIALS

WAY: trainer (a TorchTrainer for each trial), function (a function trainable), reuse (the same with reuse_actors).
Prints the seconds that all trials took together.
"""

import json
import os
import sys
import tempfile
import time

import ray
from ray import tune

PLAN = json.load(open(sys.argv[1]))
WAY, TRIALS, WORKERS = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def train_digits(config, report):
    """One trial: the model, DeepSpeed, one epoch, an evaluation."""
    import deepspeed
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, DistributedSampler

    from orchestrator.jobs.image_classification import SmallResNet, digits

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or its first start compiles for minutes
    settings = json.loads(json.dumps(PLAN["rows"][-1]["deepspeed"]))
    settings["optimizer"]["params"]["lr"] = config["lr"]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    train, val = digits("train"), digits("val")
    sampler = DistributedSampler(train)
    loader = DataLoader(train, batch_size=settings["train_micro_batch_size_per_gpu"], sampler=sampler, drop_last=True)
    model = SmallResNet(**{key: value for key, value in PLAN["spec"]["model"].items() if key != "_target_"})
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=settings, dist_init_required=False
    )
    for images, labels in loader:
        loss = cross_entropy(engine(images), labels)
        engine.backward(loss)
        engine.step()
    engine.eval()
    with torch.no_grad():
        right = sum(int((engine(images[None]).argmax(1) == label).sum()) for images, label in val)
    report({"accuracy": right / len(val)})


def function(config):
    """A trial in a process of Ray Tune."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train_digits(config, tune.report)


def trainer(config):
    """A trial that starts a TorchTrainer."""
    from ray.train import RunConfig, ScalingConfig, report
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        lambda inner: train_digits(inner, report), train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"), run_config=RunConfig(storage_path=tempfile.mkdtemp()),
    ).fit()  # fmt: skip
    tune.report({"accuracy": 0.0})


ray.init("local", num_cpus=max(2, WORKERS) + (WAY == "trainer"))
trainable = (
    tune.with_resources(trainer, {"CPU": 0.1}) if WAY == "trainer" else tune.with_resources(function, {"CPU": 1})
)
at_once = max(1, 2 // WORKERS)
tuner = tune.Tuner(
    trainable,
    param_space={"lr": tune.grid_search([1e-3 * (1 + number / 10) for number in range(TRIALS)])},
    tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=WAY == "reuse"),
    run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
)
started = time.time()
results = tuner.fit()
print(json.dumps({"seconds": time.time() - started, "errors": len(results.errors)}))
