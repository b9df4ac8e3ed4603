"""Every wrong input ends as one ConfigError of one line: what, where it was set, and what there is instead."""

from __future__ import annotations

import os

import pytest

from orchestrator.config.load import load, show, spec_from_dict
from orchestrator.errors import ConfigError

ROOT = (
    "accumulation, batch, checkpoint, cluster, data, environment, job, mesh, micro_batch, model, optimizer, "
    "precision, resilience, schedule, script, script_args, storage, strategy, sweep, tracking."
)

COMMAND_LINE = [
    # unknown keys
    ("batch_size=64", "batch_size is not a setting (on the command line: batch_size=64). Did you mean 'batch'?"),
    ("lr=0.1", "lr is not a setting (on the command line: lr=0.1). Did you mean 'optimizer.lr'?"),
    ("optimizer.lrr=1", "optimizer.lrr is not a setting (on the command line: optimizer.lrr=1). Did you mean 'optimizer.lr'?"),
    ("optim.lr=2", "optim.lr is not a setting (on the command line: optim.lr=2). Did you mean 'optimizer.lr'?"),
    ("workers=4", "workers is not a setting (on the command line: workers=4). Did you mean 'cluster.workers'?"),
    ("+foo=1", f"foo is not a setting (on the command line: +foo=1). Settings begin with: {ROOT}"),
    ("++optimizer.lrr=1", "optimizer.lrr is not a setting (on the command line: ++optimizer.lrr=1). Did you mean 'optimizer.lr'?"),
    ("job={epohcs: 5}", "job.epohcs is not a setting (on the command line: job={epohcs: 5}). Did you mean 'job.epochs'?"),
    ("model.widht=3", "model.widht is not in the config (on the command line: model.widht=3). Did you mean model.width? To add it, write +model.widht=3."),
    ("tracking.tags.a=1", "tracking.tags.a is not in the config (on the command line: tracking.tags.a=1). To add it, write +tracking.tags.a=1."),
    ("hydra.foo=1", "hydra.foo is not a setting (on the command line: hydra.foo=1)."),
    # groups and options
    ("optimizerr=sgd", "There is no config group 'optimizerr' (on the command line: optimizerr=sgd). Did you mean 'optimizer'?"),
    ("optimizer=sdg", "optimizer has no option 'sdg' (on the command line: optimizer=sdg). Did you mean optimizer=sgd?"),
    ("optimizer=3", "optimizer has no option '3' (on the command line: optimizer=3). Options: adam, adamw, sgd."),
    ("optimizer=null", "optimizer has no option 'null' (on the command line: optimizer=null). Options: adam, adamw, sgd."),
    ("experiment=demoo", "experiment has no option 'demoo' (on the command line: experiment=demoo). Did you mean experiment=demo?"),
    ("+experiment=demoo", "experiment has no option 'demoo' (on the command line: +experiment=demoo). Did you mean experiment=demo?"),
    ("+optimizer=sgd", "optimizer is already there (on the command line: +optimizer=sgd). Write optimizer=sgd."),
    ("++optimizer=sgd", "++ does not go with config groups (on the command line: ++optimizer=sgd). Write optimizer=sgd."),
    ("~optimizer=sgd", "optimizer is not set to sgd (on the command line: ~optimizer=sgd). Leave the override out."),
    ("optimizer@foo=sgd", "Nothing in the defaults list is 'optimizer@foo' (on the command line: optimizer@foo=sgd). Write optimizer=sgd."),
    ("model/x=1", "There is no config group 'model/x' (on the command line: model/x=1). Did you mean 'model'?"),
    # values
    ("optimizer.lr=abc", "optimizer.lr=abc is not a number (on the command line: optimizer.lr=abc)."),
    ("optimizer.lr=null", "optimizer.lr=null is not a number (on the command line: optimizer.lr=null)."),
    ("batch=1.5", "batch=1.5 is not a whole number (on the command line: batch=1.5)."),
    ("job.compile=maybe", "job.compile=maybe is not true or false (on the command line: job.compile=maybe)."),
    ("optimizer.betas=3", "optimizer.betas=3 is not a list (number each) (on the command line: optimizer.betas=3)."),
    ("optimizer.betas=[a,b]", "optimizer.betas.0=a is not a number (on the command line: optimizer.betas=[a,b])."),
    ("optimizer.betas.0=0.3", "optimizer.betas is null, and has no parts to set (on the command line: optimizer.betas.0=0.3). Set it as a whole: optimizer.betas=..."),
    ("optimizer.name=adamx", "optimizer.name=adamx is not one of adamw, adam, sgd (on the command line: optimizer.name=adamx)."),
    ("strategy.name=zero", "strategy.name=zero is not one of ddp, zero1, zero2, zero3, zero2_offload, zero3_offload, zero3_nvme, auto (on the command line: strategy.name=zero). Nearest: zero3, zero2, zero1."),
    ("job.monitor=3", "job.monitor=3 is not a group of settings (key: value) (on the command line: job.monitor=3)."),
    ("optimizer.lr=-1", "optimizer.lr=-1.0 is out of range: it must be greater than 0 (on the command line: optimizer.lr=-1)."),
    ("job.epochs=inf", "job.epochs=inf is out of range: it must be greater than 0 (on the command line: job.epochs=inf)."),
    ("job.evaluate.steps=0", "job.evaluate.steps=0 is out of range: it must be greater than 0 (on the command line: job.evaluate.steps=0)."),
    ("job.name=???", "job.name has no value (on the command line: job.name=???). Set it: job.name=... (text)."),
    ("job.name='a b'", "job.name=a b is not a name (on the command line: job.name='a b'). Use letters, digits, '_', '.' and '-'."),
    # grammar
    ("optimizer.lr", "Override 'optimizer.lr' has no value. Write optimizer.lr=value."),
    ("optimizer.betas=[1,2", "Override 'optimizer.betas=[1,2' cannot be read: a ']' is missing. Check its brackets."),
    ("=1", "Override '=1' names no setting. Write it as key=value."),
    ("~foo", f"foo is not there to be removed (on the command line: ~foo). Settings begin with: {ROOT}"),
    ("~model.drop", "model.drop is not there to be removed (on the command line: ~model.drop). Did you mean 'model.dropout'?"),
    ("~model.width=3", "model.width is 16 (on the command line: ~model.width=3). Write ~model.width."),
    ("~optimizer.lr", "optimizer.lr is a fixed setting and cannot be removed (on the command line: ~optimizer.lr). Write optimizer.lr=null to unset it, if it may be null."),
    ("+optimizer.lr=1", "optimizer.lr is already there (on the command line: +optimizer.lr=1). Write optimizer.lr=1."),
    ("optimizer.lr=0.1,0.2", "optimizer.lr has several values where one is needed (on the command line: optimizer.lr=0.1,0.2). Give one value; to try several: orchestrator sweep."),
    ("optimizer.betas=0.1,0.2", "optimizer.betas has several values where one is needed (on the command line: optimizer.betas=0.1,0.2). Write a list as optimizer.betas=[0.1,0.2]."),
    ("optimizer.lr=choice(1,2)", "optimizer.lr has several values where one is needed (on the command line: optimizer.lr=choice(1,2)). Give one value; to try several: orchestrator sweep."),
    # interpolation
    ("optimizer.lr=${optimizer.lrx}", "optimizer.lr refers to optimizer.lrx, which is not there (on the command line: optimizer.lr=${optimizer.lrx}). Did you mean 'optimizer.lr'?"),
    ("job.name=${oc.env:NOT_SET}", "job.name cannot be worked out: Environment variable 'NOT_SET' not found (on the command line: job.name=${oc.env:NOT_SET})."),
    # targets
    ("model._target_=foo", "model._target_=foo is not a target (on the command line: model._target_=foo). Write it as module:Name."),
    ("~model._target_", "model._target_ is not set (on the command line: ~model._target_). Choose an option (model=...), or set model._target_=module:Name."),
    ("+model._partial_=true", "model._partial_ is not supported (on the command line: +model._partial_=true). Beside _target_, write the callable's arguments by name."),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), COMMAND_LINE, ids=[row[0] for row in COMMAND_LINE])
def test_command_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([override])
    assert str(caught.value) == message
    assert "\n" not in message


FILES = [
    ("job/x.yaml", "name: x\nepohcs: 3\n", "job.epohcs is not a setting (in conf/job/x.yaml:2). Did you mean 'job.epochs'?"),
    ("job/x.yaml", "# @package _global_\njob:\n  epochs: many\n", "job.epochs=many is not a number (in conf/job/x.yaml:3)."),
    ("job/x.yaml", "name: x\ntask: orchestrator.jobs.regression:Regression\nepochs: -1\n", "job.epochs=-1.0 is out of range: it must be greater than 0 (in conf/job/x.yaml:3)."),
    ("job/x.yaml", "name: x\n", "job.task has no value. Set it: job.task=... (text)."),
    ("job/x.yaml", "name: x\ntask: ${nope}\n", "job.task refers to nope, which is not there (in conf/job/x.yaml:2)."),
    ("job/x.yaml", "name: x\ntask: ${nope\n", "conf/job/x.yaml:2 cannot be used: no viable alternative at input '${nope'. Correct the file."),
    ("job/x.yaml", "name: x\n task: y\n", "conf/job/x.yaml:2 is not valid YAML: mapping values are not allowed here. Mind indentation, and the space after each colon."),
    ("job/x.yaml", "name: x\nname: y\n", "conf/job/x.yaml:2 is not valid YAML: found duplicate key name. Mind indentation, and the space after each colon."),
    ("job/x.yaml", "- a\n", "job=[...] is not a group of settings (key: value) (in conf/job/x.yaml:1)."),
    ("job/x.yaml", "3\n", "conf/job/x.yaml cannot be used: Invalid loaded object type: int. Correct the file."),
    ("job/x.yaml", "name: \udcff\n", "conf/job/x.yaml cannot be used: 'utf-8' codec can't decode byte 0xff in position 6: invalid start byte. Correct the file."),
    ("job/x.yaml", "# @package _global_\noptimizer: 3\n", "optimizer=3 is not a group of settings (key: value) (in conf/job/x.yaml:2)."),
    ("job/x.yaml", "# @package _global_\nlr: 3\n", "lr is not a setting (in conf/job/x.yaml:2). Did you mean 'optimizer.lr'?"),
    ("job/x.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: sdg\n", "optimizer has no option 'sdg' (in conf/job/x.yaml:3). Did you mean optimizer=sgd?"),
    ("job/x.yaml", "# @package _global_\ndefaults:\n  - override /optim: sgd\n", "optim is not in the defaults list, to be overridden (in conf/job/x.yaml). Did you mean 'optimizer'?"),
    ("job/x.yaml", "# @package _global_\ndefaults:\n  - /optimizer: sgd\n", "optimizer is chosen more than once (in conf/job/x.yaml:3). Write override /optimizer: sgd."),
    ("job/x.yaml", "name: x\ntask: os.system\n", 'job.task=os.system is not an allowed target (in conf/job/x.yaml:2). To allow code of your own, list it in pyproject.toml: [tool.orchestrator] exports = ["os:system"].'),
    ("config.yaml", "defaults: [job: x, _self_]\nbatchh: 3\n", "batchh is not a setting (in conf/config.yaml:2). Did you mean 'batch'?"),
    ("config.yaml", "defaults: [job: x, _self_]\nbatch: x\n", "batch=x is not a whole number (in conf/config.yaml:2)."),
    ("config.yaml", "defaults: [job: x, _self_]\noptimizer: x\n", "optimizer=x is not a group of settings (key: value) (in conf/config.yaml:2)."),
    ("config.yaml", "hydra: {searchpath: 3}\n", "hydra.searchpath must be a list of strings. Got: 3. Write hydra.searchpath=[folder, ...]."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), FILES)
def test_files(project, name: str, text: str, message: str) -> None:
    project.write("conf/job/x.yaml", "name: x\ntask: orchestrator.jobs.regression:Regression\n")
    (project.path / "conf" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load(["job=x"])
    assert str(caught.value) == message


def test_experiment_without_package(project) -> None:
    project.write("conf/experiment/e.yaml", "batch: 3\n")
    with pytest.raises(ConfigError) as caught:
        load(["experiment=e"])
    assert caught.value.message == "experiment is not a setting (in conf/experiment/e.yaml:1)."
    assert caught.value.hint == "Begin the file with the line: # @package _global_"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"config_name": "confg"}, "There is no config 'confg' on the search path. Did you mean 'config'?"),
        ({"config_dir": "nope"}, "--config-dir nope does not exist. Give a folder with config groups in it."),
        ({"config_dir": "/etc/passwd"}, "--config-dir /etc/passwd is not a folder. Give a folder with config groups in it."),
    ],
)  # fmt: skip
def test_search_path(project, kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([], **kwargs)
    assert str(caught.value) == message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_config_dir(project) -> None:
    (project.path / "locked").mkdir(mode=0)
    with pytest.raises(ConfigError, match="cannot be read"):
        load([], config_dir="locked")


def test_searchpath_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"hydra\.searchpath names /nope, which is not there\."):
        load(["hydra.searchpath=[/nope]"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cfg": "jobb"}, "--cfg jobb is not there to be shown. Did you mean 'job'?"),
        ({"package": "optimzer"}, "--package optimzer is not in the config. Did you mean 'optimizer'?"),
        ({"package": "hydra.run", "cfg": "job"}, "--package hydra.run is not in the config that --cfg job shows."),
    ],
)
def test_show(kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        show([], **kwargs)
    assert str(caught.value) == message


def test_show_names_the_interpolation() -> None:
    with pytest.raises(ConfigError, match=r"job\.name refers to nope, which is not there \(on the command line"):
        show(["job.name=${nope}"], resolve=True)


def test_show_needs_the_schema(project) -> None:
    project.write("conf/config.yaml", "job: {name: x, task: 'orchestrator.jobs.regression:Regression'}\n")
    with pytest.raises(ConfigError) as caught:
        show(["job.epochs=3"])
    assert str(caught.value) == (
        "Hydra cannot show this config: Could not override 'job.epochs'. "
        "Put schema first in the defaults list of the main config."
    )


def test_the_last_setting_is_the_one_that_is_named(project) -> None:
    project.write("conf/job/x.yaml", "name: x\ntask: orchestrator.jobs.regression:Regression\nepochs: -1\n")
    assert load(["job=x", "job.epochs=2"]).spec.job.epochs == 2
    with pytest.raises(ConfigError, match=r"job.epochs=-2.0 .* \(on the command line: job.epochs=-2\)"):
        load(["job=x", "job.epochs=-2"])


def test_a_damaged_dict() -> None:
    with pytest.raises(ConfigError) as caught:
        spec_from_dict({"job": {"name": "x", "task": "a:B", "epocs": 1}})
    assert str(caught.value) == "job.epocs is not a setting. Nearest: job.epochs, job.steps."
