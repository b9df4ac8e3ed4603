"""The dataclasses behind every config option; conf/ holds the values, this file their types, defaults and meaning.

A JobSpec is what the person asked for. Checks of one value live in `__post_init__`; arithmetic over several fields
lives in plans/.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from orchestrator.errors import ConfigError
from orchestrator.foundation import units


class StrategyName(Enum):
    """How parameters, gradients and optimizer states are spread over the workers."""

    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"
    zero2_offload = "zero2_offload"
    zero3_offload = "zero3_offload"
    zero3_nvme = "zero3_nvme"
    auto = "auto"
    """The fastest of the others that fits."""


EXPLICIT_STRATEGIES = tuple(name for name in StrategyName if name is not StrategyName.auto)
AUTO = "auto"
"""What micro_batch can be beside a number."""


class OptimizerName(Enum):
    """The optimizers a config can name; all are torch's own, so that none is compiled on first use."""

    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"


class ScheduleName(Enum):
    """Shape of the learning rate after warmup."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class PlacementName(Enum):
    """How workers are laid out over the nodes."""

    pack = "pack"
    spread = "spread"


class PrecisionName(Enum):
    """Number format of forward and backward; master weights are always fp32."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class LauncherName(Enum):
    """Who starts the workers."""

    ray = "ray"
    torchrun = "torchrun"


class MonitorMode(Enum):
    """Whether a smaller or a larger value of the monitored metric is better."""

    min = "min"
    max = "max"


class SearchName(Enum):
    """How a sweep chooses the values of its trials."""

    grid = "grid"
    random = "random"
    qmc = "qmc"
    """Spread evenly (Sobol's sequence)."""
    tpe = "tpe"
    gp = "gp"
    cmaes = "cmaes"


class SchedulerName(Enum):
    """Which trials of a sweep are ended early, or changed on the way."""

    none = "none"
    asha = "asha"
    hyperband = "hyperband"
    median = "median"
    pbt = "pbt"


def _require(condition: bool, key: str, value: object, rule: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={value} is out of range: {rule}.")


def _positive(key: str, value: float | None) -> None:
    _require(value is None or 0 < value < math.inf, key, value, "it must be greater than 0")


def _at_least_zero(key: str, value: float | None) -> None:
    _require(value is None or 0 <= value < math.inf, key, value, "it must be 0 or more")


@dataclass(kw_only=True, slots=True)
class Every:
    """How often something happens; both given means at each of them, neither means never."""

    steps: int | None = None
    """Every so many optimizer steps."""
    epochs: int | None = None
    """Every so many passes over the training data."""

    def check(self, key: str) -> None:
        """Called by the owner, which knows the full key."""
        _positive(f"{key}.steps", self.steps)
        _positive(f"{key}.epochs", self.epochs)


@dataclass(kw_only=True, slots=True)
class Monitor:
    """The validation metric that decides what 'best' means."""

    metric: str = "loss"
    """Name as the Task reports it, without `val/`."""
    mode: MonitorMode = MonitorMode.min
    """Whether smaller (min) or larger (max) is better."""


@dataclass(kw_only=True, slots=True)
class EarlyStopping:
    """End training when the monitored metric has stopped getting better."""

    patience: int | None = None
    """Evaluations without improvement before training ends; null: never ends early."""
    min_delta: float = 0.0
    """The least change that counts as an improvement."""

    def __post_init__(self) -> None:
        _positive("job.early_stopping.patience", self.patience)
        _at_least_zero("job.early_stopping.min_delta", self.min_delta)


@dataclass(kw_only=True, slots=True)
class Loader:
    """How batches are made ahead of their use. They are the same whatever stands here."""

    processes: int = 0
    """Processes of each worker that read and prepare samples; 0: a thread does."""
    ahead: int = 4
    """Steps whose batches are made ahead."""

    def __post_init__(self) -> None:
        _at_least_zero("job.loader.processes", self.processes)
        _positive("job.loader.ahead", self.ahead)


@dataclass(kw_only=True, slots=True)
class Job:
    """What is trained, for how long, and what is watched."""

    name: str = MISSING
    """Name of the job: the experiment in MLflow and the beginning of run ids."""
    task: str = MISSING
    """The Task to train, as `module:Class`."""
    epochs: float | None = None
    """Passes over the training data; give this or `steps`."""
    steps: int | None = None
    """Optimizer steps; give this or `epochs`."""
    seed: int = 0
    """Seed of weights, data order and dropout; equal seeds make equal runs, to the bit on CPU."""
    clip: float | None = None
    """Greatest gradient norm; null: no clipping."""
    evaluate: Every = field(default_factory=lambda: Every(epochs=1))
    """When the validation split is evaluated; it always is at the end."""
    monitor: Monitor = field(default_factory=Monitor)
    """The validation metric that best checkpoints and early stopping go by."""
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    """When to end before `epochs` or `steps` are done."""
    compile: bool = False
    """Run the model through torch.compile (costs minutes at the start, pays on long runs)."""
    activation_checkpointing: bool = False
    """Recompute the activations of the Task's blocks in the backward pass: less memory, more time."""
    log_every: int = 1
    """Record training metrics every so many steps."""
    loader: Loader = field(default_factory=Loader)
    """How batches are made ahead."""

    def __post_init__(self) -> None:
        if self.name != MISSING and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise ConfigError(f"job.name={self.name} is not a name.", "Use letters, digits, '_', '.' and '-'.")
        self.evaluate.check("job.evaluate")
        _positive("job.epochs", self.epochs)
        _positive("job.steps", self.steps)
        _positive("job.clip", self.clip)
        _positive("job.log_every", self.log_every)
        _at_least_zero("job.seed", self.seed)


@dataclass(kw_only=True, slots=True)
class Optimizer:
    """The optimizer and its numbers; a number that the named optimizer does not have must stay null."""

    name: OptimizerName = OptimizerName.adamw
    """Which one."""
    lr: float = 1e-3
    """Peak learning rate, reached after warmup."""
    weight_decay: float = 0.0
    """Weight decay (decoupled in adamw, L2 in adam and sgd)."""
    betas: list[float] | None = None
    """Adam's two averaging factors; null: 0.9, 0.999."""
    eps: float | None = None
    """Adam's term against division by zero; null: 1e-8."""
    momentum: float | None = None
    """Momentum of sgd; null: 0."""
    nesterov: bool | None = None
    """Nesterov's momentum for sgd; null: false."""
    no_decay: list[str] = field(default_factory=list)
    """Parameters whose name contains one of these strings get no weight decay, in a group of their own."""

    def __post_init__(self) -> None:
        _positive("optimizer.lr", self.lr)
        _at_least_zero("optimizer.weight_decay", self.weight_decay)
        _positive("optimizer.eps", self.eps)
        if self.betas is not None:
            right = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
            _require(right, "optimizer.betas", self.betas, "it must be two numbers in [0, 1)")
        if self.momentum is not None:
            _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "it must be in [0, 1)")
        if self.nesterov:
            _require(bool(self.momentum), "optimizer.nesterov", True, "it needs optimizer.momentum > 0")
        foreign = ("betas", "eps") if self.name is OptimizerName.sgd else ("momentum", "nesterov")
        for key in foreign:
            if getattr(self, key) is not None:
                other = "adamw" if key in ("betas", "eps") else "sgd"
                raise ConfigError(
                    f"optimizer.{key}={getattr(self, key)} means nothing to {self.name.value}.",
                    f"Leave it out, or choose another optimizer (optimizer={other}).",
                )


@dataclass(kw_only=True, slots=True)
class Schedule:
    """Learning rate over the course of training."""

    name: ScheduleName = ScheduleName.constant
    """Shape after warmup."""
    warmup_steps: int | None = None
    """Steps of linear rise from 0 to the peak; give this or `warmup_fraction`."""
    warmup_fraction: float | None = None
    """The same as a share of all steps."""
    final: float = 0.0
    """Share of the peak that linear and cosine end at."""

    def __post_init__(self) -> None:
        _at_least_zero("schedule.warmup_steps", self.warmup_steps)
        if self.warmup_fraction is not None:
            right = 0 <= self.warmup_fraction < 1
            _require(right, "schedule.warmup_fraction", self.warmup_fraction, "it must be in [0, 1)")
        _require(0 <= self.final <= 1, "schedule.final", self.final, "it must be in [0, 1]")
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ConfigError(
                f"schedule.warmup_steps={self.warmup_steps} and schedule.warmup_fraction={self.warmup_fraction}"
                " are both given.",
                "Set one of them to null (schedule.warmup_fraction=null).",
            )


@dataclass(kw_only=True, slots=True)
class Strategy:
    """How the model's states are spread over workers, and DeepSpeed's knobs for it."""

    name: StrategyName = StrategyName.ddp
    """Which one."""
    reduce_bucket_size: int = 50_000_000
    """Numbers reduced at once: larger is faster and takes more memory."""
    allgather_bucket_size: int = 50_000_000
    """Numbers gathered at once (ZeRO 1 and 2)."""
    prefetch_bucket_size: int = 50_000_000
    """Numbers fetched ahead of their use (ZeRO 3)."""
    persistence_threshold: int = 100_000
    """Parameters smaller than this stay whole on each worker (ZeRO 3)."""
    overlap_comm: bool = True
    """Reduce gradients while the backward pass still runs (only takes effect on GPUs)."""
    offload_pin_memory: bool = True
    """Keep offloaded states in page-locked memory (only takes effect with GPUs)."""
    nvme_path: str | None = None
    """A folder on a fast disk of each node, for the optimizer states of zero3_nvme; null: there is none."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed settings merged on top of the planned ones."""
    deepspeed_file: str | None = None
    """A DeepSpeed JSON file merged on top of the planned settings, below `deepspeed`."""

    def __post_init__(self) -> None:
        for key in ("reduce_bucket_size", "allgather_bucket_size", "prefetch_bucket_size"):
            _positive(f"strategy.{key}", getattr(self, key))
        _at_least_zero("strategy.persistence_threshold", self.persistence_threshold)


@dataclass(kw_only=True, slots=True)
class Precision:
    """Number format of forward and backward passes."""

    name: PrecisionName = PrecisionName.fp32
    """fp32, bf16 or fp16."""
    initial_scale_power: int = 16
    """fp16 only: the loss scale starts at 2 to this power."""
    tf32: bool = True
    """Let GPUs that have it use TF32 for fp32 matrix products."""

    def __post_init__(self) -> None:
        power = self.initial_scale_power
        _require(0 <= power <= 32, "precision.initial_scale_power", power, "use 0 to 32")


@dataclass(kw_only=True, slots=True)
class Mesh:
    """How workers are arranged: data x tensor x pipeline."""

    data: int | None = None
    """Data-parallel size; null: workers / (tensor x pipeline)."""
    tensor: int = 1
    """Workers that share each layer's matrices, as the model's `_tp_plan` says; with strategy ddp, zero1 or zero2."""
    pipeline: int = 1
    """Stages that share the layers; not supported yet."""

    def __post_init__(self) -> None:
        for key in ("data", "tensor", "pipeline"):
            _positive(f"mesh.{key}", getattr(self, key))


@dataclass(kw_only=True, slots=True)
class Cluster:
    """Where the workers run and what each of them gets."""

    launcher: LauncherName = LauncherName.ray
    """ray: a gang of Ray actors; torchrun: plain processes on this machine, for hosts without Ray."""
    address: str | None = None
    """Ray's address (`host:6379` or `auto`); null: a Ray of our own on this machine, for the time of the run."""
    workers: Any = None
    """Worker processes: a number, or a range as '2..8'; null: derived from the batch factors, or else 1."""
    nodes: int = 1
    """Hosts the workers may be spread over."""
    placement: PlacementName = PlacementName.pack
    """pack: on as few nodes as possible, at most `nodes`; spread: evenly over `nodes`."""
    gpu_type: str | None = None
    """Only nodes whose GPUs have this in their name (`H100`, in any case); null: any."""
    labels: dict[str, str] = field(default_factory=dict)
    """Only nodes with all of these Ray labels, as `{zone: a}`."""
    cpus_per_worker: float = 1
    """CPUs reserved for each worker."""
    gpus_per_worker: float | None = None
    """GPUs reserved for each worker; null: 1 where the cluster has any, else 0."""
    memory_per_worker: Any = None
    """Host memory reserved for each worker: bytes, or text as `8GiB`; null: none is reserved."""
    threads_per_worker: int = 1
    """Threads of torch in each worker; 1 makes CPU runs equal to the bit."""
    start_timeout_s: float = 300.0
    """Give up when the workers have not started after so many seconds."""

    def __post_init__(self) -> None:
        _positive("cluster.nodes", self.nodes)
        _positive("cluster.cpus_per_worker", self.cpus_per_worker)
        _at_least_zero("cluster.gpus_per_worker", self.gpus_per_worker)
        gpus = self.gpus_per_worker or 0
        _require(gpus <= 1 or gpus == int(gpus), "cluster.gpus_per_worker", gpus, "above 1 use whole numbers")
        units.optional_bytes("cluster.memory_per_worker", self.memory_per_worker)
        _positive("cluster.threads_per_worker", self.threads_per_worker)
        _positive("cluster.start_timeout_s", self.start_timeout_s)
        WorkerRange.parse(self.workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRange:
    """The admissible numbers of workers."""

    low: int
    high: int

    @classmethod
    def parse(cls, value: object) -> WorkerRange | None:
        """Read `4`, '4' or '2..8'; None stays None."""
        if value is None:
            return None
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value).strip())
        if isinstance(value, bool) or not match:
            raise ConfigError(
                f"cluster.workers={value} is not a number of workers.", "Give a whole number (4) or a range (2..8)."
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high:
            raise ConfigError(
                f"cluster.workers={value} is out of range: it must be 1 or more, the smaller number first."
            )
        return cls(low=low, high=high)


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """When training state is saved, and what is kept. One is always saved at the end and on a graceful stop."""

    every: Every = field(default_factory=lambda: Every(epochs=1))
    """When to save."""
    keep: int = 2
    """The newest so many are kept, beside the best."""
    keep_every: int | None = None
    """Also keep the first at or after each multiple of so many steps; null: none for that reason."""
    best: bool = True
    """Keep the checkpoint with the best monitored metric, and make it the final model."""
    asynchronous: bool = True
    """Copy the state and write it beside training; takes host memory for the copy. false: training waits."""

    def __post_init__(self) -> None:
        self.every.check("checkpoint.every")
        _positive("checkpoint.keep", self.keep)
        _positive("checkpoint.keep_every", self.keep_every)


@dataclass(kw_only=True, slots=True)
class Resilience:
    """What happens when workers or nodes are lost, and when there is room for more of them."""

    max_failures: int = 3
    """Go on by itself after so many failures in a row; a new checkpoint ends the row. 0: the first ends the run."""
    restart_on_exception: bool = False
    """Also go on after an exception of a worker's own, which usually comes again."""
    backoff_s: float = 1.0
    """Pause before the second restart in a row, doubled for each further one, up to a minute."""
    grow_interval_s: float | None = 10.0
    """With a range of workers: go on with more when there has been room for them for so long; null: never."""

    def __post_init__(self) -> None:
        _at_least_zero("resilience.max_failures", self.max_failures)
        _at_least_zero("resilience.backoff_s", self.backoff_s)
        _positive("resilience.grow_interval_s", self.grow_interval_s)


@dataclass(kw_only=True, slots=True)
class Tracking:
    """Where runs are recorded."""

    enabled: bool = True
    """Record to MLflow; run storage keeps everything in any case."""
    uri: str | None = None
    """MLflow's tracking URI; null: $MLFLOW_TRACKING_URI, or else SQLite in the storage folder."""
    experiment: str | None = None
    """MLflow experiment; null: the job's name."""
    tags: dict[str, str] = field(default_factory=dict)
    """Further tags of the run."""
    system_metrics: bool = True
    """Record CPU, memory, disk, network and GPU use of each node."""
    system_metrics_interval_s: float = 10.0
    """Seconds between two such records."""
    log_model: bool = True
    """Record the final model with its signature."""
    plots: bool = True
    """Draw loss curves and the test split's answers at the end, and keep them in the run and in MLflow."""
    timeout_s: float = 15.0
    """Longest wait for the tracking server before training starts without having started."""

    def __post_init__(self) -> None:
        _positive("tracking.system_metrics_interval_s", self.system_metrics_interval_s)
        _positive("tracking.timeout_s", self.timeout_s)


@dataclass(kw_only=True, slots=True)
class Storage:
    """Where plans, events, logs and checkpoints of runs lie."""

    path: str = "runs"
    """A local folder for one host; a shared folder or an fsspec URL (s3://bucket/runs) for several."""
    shared: bool = False
    """Says that every node sees this path, when that cannot be told from the file system's type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretRef:
    """Where a node finds a secret, which itself is written nowhere."""

    kind: str
    """`file`: the content of a file on the node; `env`: a variable that its processes were started with; `keyring`: an
    entry of its keyring."""
    place: str
    """A path, a variable's name, or SERVICE/USER."""

    @classmethod
    def parse(cls, key: str, value: object) -> SecretRef:
        """Read `{file: PATH}`, `{env: NAME}` or `{keyring: SERVICE/USER}`.

        What was given may be the secret itself: no error shows it.
        """
        if not isinstance(value, dict) or len(value) != 1 or not set(value) <= {"file", "env", "keyring"}:
            raise ConfigError(
                f"{key} does not say where the secret is.",
                "Name one place: {file: PATH}, {env: NAME} or {keyring: SERVICE/USER}.",
            )
        ((kind, place),) = value.items()
        if not place or not isinstance(place, str) or (kind == "keyring" and not all(place.partition("/"))):
            raise ConfigError(
                f"{key}.{kind} names no place.", "As {file: PATH}, {env: NAME} or {keyring: SERVICE/USER}."
            )
        return cls(kind=kind, place=place)


SECRET_WORDS = re.compile(r"(?i)(SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY)$")
"""How names of variables end that hold secrets."""


@dataclass(kw_only=True, slots=True)
class Environment:
    """What workers find in their environment."""

    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of every worker; they stand in the plan."""
    secrets: dict[str, Any] = field(default_factory=dict)
    """More of them, by reference: `HF_TOKEN: {file: /run/secrets/hf}`, `{env: NAME}` or `{keyring: SERVICE/USER}`."""

    def __post_init__(self) -> None:
        for name in self.variables:
            if SECRET_WORDS.search(name):
                raise ConfigError(
                    f"environment.variables.{name} would stand in the plan and in every record.",
                    f"Say where the nodes find it: environment.secrets.{name}={{file: PATH}}",
                )
            if name in self.secrets:
                raise ConfigError(f"{name} is in environment.variables and in environment.secrets.", "Leave out one.")
        self.references()

    def references(self) -> dict[str, SecretRef]:
        """The secrets' places, by the variables they become."""
        return {name: SecretRef.parse(f"environment.secrets.{name}", value) for name, value in self.secrets.items()}


@dataclass(kw_only=True, slots=True)
class Sweep:
    """A search over settings; `orchestrator sweep` reads it, and a single training does not."""

    params: dict[str, Any] = field(default_factory=dict)
    """What to search, in Hydra's grammar: `optimizer.lr: tag(log,interval(1e-5,1e-1))`; or `{space: ..., when: ...}`"""
    constraints: list[str] = field(default_factory=list)
    """What must hold in every trial, as `model.width * batch <= 4096`."""
    search: SearchName | None = None
    """How values are chosen; null: grid where the space is finite and sweep.trials is null, else tpe."""
    scheduler: SchedulerName = SchedulerName.none
    """Which trials are ended early, or changed on the way."""
    trials: int | None = None
    """Trials in all; null: the whole grid, or else 20."""
    metric: str | None = None
    """The validation metric to search by, or `parameters` or `seconds`; null: job.monitor."""
    mode: MonitorMode | None = None
    """Whether smaller or larger is better; null: as job.monitor.mode."""
    objectives: list[str] = field(default_factory=list)
    """Several metrics in place of one, as `[loss:min,accuracy:max]`; the result is a Pareto front."""
    seed: int = 0
    """Seed of the search; that of the trainings is job.seed."""
    rung: int = 1
    """Epochs (or steps, where the job's length is given in steps) before the first decision about a trial."""
    reduction: int = 3
    """asha, hyperband: of so many trials one goes on, each time for so many times as long."""
    max_concurrent: int | None = None
    """Trials at the same time; null: as many as there is room for."""
    max_failed: int | None = None
    """End the sweep after so many failed trials; null: never."""
    retries: int = 2
    """How often a trial that lost a worker goes on from its newest checkpoint."""
    halvings: int = 0
    """How often a trial that ran out of memory goes on with half the micro batch, and the same global batch."""
    hours: float | None = None
    """End the sweep after so many hours."""
    gpu_hours: float | None = None
    """End the sweep when its trials have used so many GPU hours."""
    target: float | None = None
    """End the sweep when a trial's metric is at least as good as this."""

    def __post_init__(self) -> None:
        for key in ("trials", "rung", "max_concurrent", "max_failed", "hours", "gpu_hours"):
            _positive(f"sweep.{key}", getattr(self, key))
        for key in ("seed", "retries", "halvings"):
            _at_least_zero(f"sweep.{key}", getattr(self, key))
        _require(self.reduction >= 2, "sweep.reduction", self.reduction, "it must be 2 or more")
        for objective in self.objectives:
            metric, _, mode = objective.partition(":")
            if not metric or mode.strip() not in ("min", "max"):
                raise ConfigError(
                    f"sweep.objectives={objective} does not say which way is better.", "Write [loss:min,accuracy:max]."
                )
        if self.objectives and self.metric:
            raise ConfigError(
                f"sweep.metric={self.metric} and sweep.objectives both say what to search by.", "Leave out one of them."
            )


@dataclass(kw_only=True, slots=True)
class JobSpec:
    """Everything the person asked for: one composition of all config groups."""

    job: Job = field(default_factory=Job)
    model: dict[str, Any] = field(default_factory=dict)
    """`_target_: module:callable` that returns the model, and its arguments; the callable's signature is the schema."""
    data: dict[str, Any] = field(default_factory=dict)
    """`_target_: module:callable` that returns the dataset of a `split`, and its arguments."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    strategy: Strategy = field(default_factory=Strategy)
    precision: Precision = field(default_factory=Precision)
    mesh: Mesh = field(default_factory=Mesh)
    cluster: Cluster = field(default_factory=Cluster)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    resilience: Resilience = field(default_factory=Resilience)
    tracking: Tracking = field(default_factory=Tracking)
    storage: Storage = field(default_factory=Storage)
    script: str | None = None
    """A training script of your own, run unchanged on every worker in place of a Task; a path in the project."""
    script_args: list[str] = field(default_factory=list)
    """Its arguments. Filled in are {deepspeed_config}, {checkpoints}, {run}, {seed}, {batch}, {micro_batch} and
    {accumulation}."""
    environment: Environment = field(default_factory=Environment)
    sweep: Sweep = field(default_factory=Sweep)
    batch: int | None = None
    """Global batch: samples per optimizer step over all workers."""
    micro_batch: Any = None
    """Samples per forward pass of one worker; auto: as many as fit; null: as follows from the other factors."""
    accumulation: int | None = None
    """Forward passes per optimizer step."""

    def __post_init__(self) -> None:
        for key in ("batch", "accumulation"):
            _positive(key, getattr(self, key))
        micro = self.micro_batch
        if micro not in (None, AUTO) and (isinstance(micro, bool) or not isinstance(micro, int) or micro <= 0):
            raise ConfigError(f"micro_batch={micro} is not a number of samples.", "Give 1 or more, auto, or null.")
