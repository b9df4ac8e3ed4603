"""Training scripts that people have, one worker of which is killed in mid-run: what tests here and on hosts share."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator import paths

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, kw_only=True)
class Script:
    """One of them, for a run that is long enough to be disturbed."""

    file: str
    arguments: str
    settings: tuple[str, ...] = ()
    saved: str
    """Pattern of what lies in the run's folder once the script has saved a whole checkpoint."""
    went_on: str
    """What it prints when it starts from its own checkpoint; the group is the step."""
    ended: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """The job on two workers, restarted at once."""
        own = (f"script={self.file}", f"script_args=[{self.arguments}]", "strategy=zero2", *self.settings)
        return ("job=script", *own, "cluster.workers=2", "resilience.backoff_s=0")

    def put(self, folder: Path) -> None:
        """Copy it into a project."""
        shutil.copy(SCRIPTS / self.file, folder)

    def has_saved(self, root: Path) -> bool:
        """Whether there is something to go on from, in the run's folder."""
        return any((root / paths.SCRIPT_CHECKPOINTS).glob(self.saved))

    def check(self, log: Callable[[int], str]) -> None:
        """Hold the logs of both workers against what a run that was disturbed once has to say."""
        for rank in range(2):
            steps = [int(step) for step in re.findall(self.went_on, log(rank))]
            assert len(steps) == 1, f"rank {rank} went on from {steps}: {log(rank)}"
            assert steps[0] > 0
            assert self.ended.format(rank=rank) in log(rank)


DEEPSPEED = Script(
    file="deepspeed_docs.py",
    arguments='--deepspeed,--deepspeed_config,"{deepspeed_config}",--save,"{checkpoints}",--steps,\'150\'',
    saved="latest",
    went_on=r"begins at step ([1-9]\d*)",
    ended="rank {rank} ends at step 150",
)
TRAINER = Script(
    file="trainer.py",
    arguments='--deepspeed,"{deepspeed_config}",--out,"{checkpoints}",--micro-batch,"{micro_batch}",'
    "--accumulation,\"{accumulation}\",--steps,'400'",
    settings=("optimizer.weight_decay=0",),
    saved="checkpoint-200/trainer_state.json",
    went_on=r"resuming training at .*checkpoint-(\d+)",
    ended="trained 400 steps",
)
BOTH = (DEEPSPEED, TRAINER)


def scripts_of(run: str) -> dict[int, psutil.Process]:
    """The processes of a run's script by rank, on all hosts that this machine plays."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # Not those that load data: they are copies of their parent.
            if _is_script(process) and not _is_script(process.parent()):
                env = process.environ()
                if env.get("ORCHESTRATOR_RUN") == run:
                    found[int(env["RANK"])] = process
    return found


def _is_script(process: psutil.Process | None) -> bool:
    return process is not None and "orchestrator.runtime.worker.script.main" in process.cmdline()


def worker_of(run: str, rank: int) -> psutil.Process:
    """The process that stays beside a script."""
    worker = scripts_of(run)[rank].parent()
    assert worker
    return worker


def kill(run: str, rank: int) -> None:
    """What the kernel does to the one that takes most memory."""
    scripts_of(run)[rank].kill()
