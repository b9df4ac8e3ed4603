"""A process that runs a gang, as the one that speaks to Ray does: `gang_script.py ADDRESS LAUNCH`; tells what it imported."""

from __future__ import annotations

import json
import logging
import sys

import ray

from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.ray.gang import run
from orchestrator.runtime.worker.context import Launch


def main(address: str, launch: str) -> None:
    """Carry out a launch with two workers."""
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    resources = WorkerResources(cpus=1, gpus=0, threads=1)
    end = run(Launch(**json.loads(launch)), resources, 2, {"placement_strategy": "PACK"})
    heavy = sorted({"torch", "ray.train", "deepspeed"} & set(sys.modules))
    print(json.dumps({"error": end.error, "lost": [worker.rank for worker in end.lost], "heavy": heavy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
