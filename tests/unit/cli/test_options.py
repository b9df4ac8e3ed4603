"""The options that verbs with a config share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli.options import config_options, handled_show
from orchestrator.config.request import ConfigArgs

seen: list[ConfigArgs] = []


@click.command()
@config_options
@click.option("--extra")
def probe(config: ConfigArgs, extra: str | None) -> None:
    """Remember what was parsed."""
    seen.append(config)


def parse(*args: str) -> ConfigArgs:
    """The ConfigArgs of a command line."""
    result = CliRunner().invoke(probe, args, standalone_mode=False)
    if result.exception:
        raise result.exception
    return seen.pop()


def test_overrides_of_all_forms_pass() -> None:
    overrides = ("job=digits", "~tracking", "+a=1", "++b=2", "optimizer.betas=[0.9,0.95]", "x=-1", "job.name='a b'")
    assert parse(*overrides, "--json").overrides == overrides


@pytest.mark.parametrize("flags", [("-cd", "conf", "-cn", "mine"), ("--config-dir=conf", "--config-name=mine")])
def test_hydra_spellings(flags: tuple[str, ...]) -> None:
    args = parse("a=1", *flags, "b=2")
    assert (args.config_dir, args.config_name, args.overrides) == ("conf", "mine", ("a=1", "b=2"))


def test_info_without_a_value_means_all() -> None:
    assert parse("a=1", "--info").info == "all"
    assert parse("--info", "defaults-tree").info == "defaults-tree"


def test_unknown_options_are_refused() -> None:
    with pytest.raises(click.NoSuchOption, match="--nonsense"):
        parse("--nonsense")


def test_resolve_needs_cfg() -> None:
    with pytest.raises(click.UsageError, match="--resolve"):
        handled_show(ConfigArgs(resolve=True))


def test_nothing_to_show() -> None:
    assert not handled_show(ConfigArgs(overrides=("job=digits",)))


def test_cfg_prints_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert handled_show(ConfigArgs(cfg="job", package="optimizer"))
    assert "lr: " in capsys.readouterr().out
