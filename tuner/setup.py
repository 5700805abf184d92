"""From a command to a study: everything a user can get wrong is checked before anything is written."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import search_spaces
from ground.errors import BadInput
from ground.limits import LARGEST_WHOLE, shown
from ground.machine import available_cpus
from ground.paths import expanded
from ground.settings import assignments
from models.base import Family, Place
from models.registry import get
from search_spaces import SearchSpace
from studies import data as studies_data
from studies import ledger, places, transfer
from studies.study import Study, begin, open_study, remove
from tuner import searchers
from tuner.options import Options
from tuner.resources import plan
from tuner.schedulers import SCHEDULERS

_MOST = 1_000_000
_TRIED = 20  # points, where one after another cannot be trained
DEFAULT_FAMILY = "ndt"
"""What --data is taken for where no --family is named."""
_DATA = "data."
"""What names of --set begin with that are keys of the data block."""
_AGAIN = 5
"""Trials of one setting (--again): enough to see what the seed alone does."""


@dataclass(frozen=True)
class Request:
    """A checked command."""

    space: SearchSpace
    path: Path
    fingerprint: str
    seed: int
    objective: str
    holdout: float | None
    init: dict[str, str] | None
    ranks: int
    options: Options
    command: tuple[str, ...] | None = None


def resolve(arguments: argparse.Namespace) -> Request:
    """Check a command.

    Raises:
        BadInput: the first thing wrong with it.
    """
    space = _space(arguments) if arguments.again is None else _again(arguments)
    family = get(space.family).of(space.data)
    fixed = dict(space.fixed)
    start = fixed.pop(transfer.SETTING, None)
    space = replace(space, fixed=fixed)
    _check_settings(space, family)
    objective = _objective(arguments.objective, family)
    samples = space.budget["samples"] if arguments.samples is None else arguments.samples
    if not 1 <= samples <= _MOST:
        raise BadInput(f"--samples {shown(samples)}: at least one trial is needed, {_MOST} are the most")
    keep = space.budget["keep"] if arguments.keep is None else arguments.keep
    if keep < 1:
        raise BadInput(f"--keep {keep}: at least one checkpoint must stay")
    if not 0 <= arguments.checkpoint_seconds < math.inf:
        raise BadInput(f"--checkpoint-seconds {arguments.checkpoint_seconds:g}: must be a time")
    if not 0 <= arguments.seed <= LARGEST_WHOLE:
        raise BadInput(f"--seed {shown(arguments.seed)}: must not be negative, nor above {LARGEST_WHOLE}")
    for option in ("cpus_per_trial", "gpus_per_trial"):
        if not abs(getattr(arguments, option)) < _MOST:
            raise BadInput(f"--{option.replace('_', '-')} {getattr(arguments, option)}: must be a number of them")
    if not 1 <= arguments.ranks < _MOST:
        raise BadInput(f"--ranks {shown(arguments.ranks)}: at least one is needed")
    _one_of("--searcher", arguments.searcher, searchers.names())
    _one_of("--scheduler", arguments.scheduler, SCHEDULERS)
    if arguments.ranks > 1 and not family.data_parallel:
        raise BadInput(f"--ranks {arguments.ranks}: family {family.name} trains a model in one process")
    if arguments.address is None:
        gpus = _gpus() if arguments.gpus_per_trial else 0
        each = arguments.cpus_per_trial, arguments.gpus_per_trial
        plan(available_cpus(), gpus, arguments.workers, *each, arguments.ranks)
    path = places.place(space.name if arguments.study is None else arguments.study, family)
    if arguments.warm_start is not None:
        from tuner.feed import warm_points

        mode = next(m.mode for m in family.snapshots.values() if m.name == objective)
        searcher = searchers.create("random", space.space, "objective", mode, arguments.seed, lambda point: True)
        warm_points(arguments.warm_start, searcher, objective)
    init = None if start is None else transfer.resolve(start, space.family)
    fingerprint = studies_data.fingerprint(family, space.data)
    holdout = arguments.holdout
    if holdout is None:
        data = studies_data.load(family, space.data, "val", fingerprint)
    elif 0 < holdout < 1:
        data = studies_data.load_part(family, space.data, fingerprint, holdout, arguments.seed, held=False)
    else:
        raise BadInput(f"--holdout {holdout:g}: a share of the validation groups, above 0 and below 1")
    family.truth(data)
    # what a GPU holds is not tried on the CPU
    _check_feasible(space, family, None if arguments.gpus_per_trial else data, arguments.seed)
    options = Options(
        samples=samples,
        searcher=arguments.searcher,
        scheduler=arguments.scheduler,
        workers=arguments.workers or space.budget["workers"],
        cpus_per_trial=arguments.cpus_per_trial,
        gpus_per_trial=arguments.gpus_per_trial,
        address=arguments.address,
        keep=keep,
        checkpoint_seconds=arguments.checkpoint_seconds,
        verbose=arguments.verbose,
        warm_start=arguments.warm_start,
    )
    if options.address is not None:
        from tuner import cluster

        cluster.join(family, options, path)
        cluster.room(options, arguments.ranks)
    command = tuple(arguments.command) if "command" in arguments else None
    return Request(
        space, path, fingerprint, arguments.seed, objective, holdout, init, arguments.ranks, options, command
    )


def open_or_begin(request: Request, overwrite: bool) -> tuple[Study, bool]:
    """The request's study, and whether it was there already."""
    if overwrite and request.path.exists():
        if (request.path / "study.json").exists():
            with Study(request.path, {}).lock():
                remove(request.path)
        else:
            remove(request.path)
    return begin(
        request.path,
        request.space,
        request.fingerprint,
        request.seed,
        request.objective,
        request.holdout,
        request.init,
        request.ranks,
        request.command,
    )


def _space(arguments: argparse.Namespace) -> SearchSpace:
    if arguments.dataset is None and arguments.data is None:
        raise BadInput(f"name a dataset ({', '.join(search_spaces.names())}) or give --data FILE")
    if arguments.data is not None:
        space = search_spaces.load(arguments.dataset or get(arguments.family or DEFAULT_FAMILY).default_space)
        data = get(space.family).own_data(arguments.data, space.data)
        space = replace(space, data=data, name=_name(arguments.data))
    else:
        space = search_spaces.load(arguments.dataset)
    if arguments.family and arguments.family != space.family:
        get(arguments.family)
        raise BadInput(f"{space.name} is searched with family {space.family}, not {arguments.family}")
    fixed, domains = dict(space.fixed), dict(space.declared or space.space)
    if arguments.space:
        domains = search_spaces.load_space_json(Path(arguments.space))
        fixed = {k: v for k, v in fixed.items() if k not in domains}
    if arguments.config:
        template = search_spaces.load_template(Path(arguments.config))
        fixed.update({k: v for k, v in template.items() if k not in domains})
    chosen = assignments(arguments.set)
    block = {name.removeprefix(_DATA): chosen.pop(name) for name in list(chosen) if name.startswith(_DATA)}
    fixed.update(chosen)
    domains = {name: domain for name, domain in domains.items() if name not in chosen}
    domains = search_spaces.decide(domains, fixed)
    if not domains:
        raise BadInput("everything is fixed: nothing is left to search")
    return replace(space, fixed=fixed, space=domains, data={**space.data, **block})


def _again(arguments: argparse.Namespace) -> SearchSpace:
    """One point of an earlier study, with nothing left to search: its trials differ by their seeds alone."""
    for option in ("dataset", "data", "space", "config", "warm_start"):
        if getattr(arguments, option) is not None:
            words = option if option == "dataset" else f"--{option.replace('_', '-')}"
            raise BadInput(f"--again takes data and settings from a trial: {words} does not go with it")
    name, slash, trial = arguments.again.rpartition("/")
    if not slash or not name:
        raise BadInput(f"--again {arguments.again}: expected <study>/<trial>")
    study = open_study(places.find(name))
    if arguments.family not in (None, study.config["family"]):
        raise BadInput(f"--again {arguments.again}: a study of family {study.config['family']}, not {arguments.family}")
    known = {str(config["trial_id"]): config for config in ledger.trial_configs(study)}
    if trial not in known:
        near = difflib.get_close_matches(trial, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"python -m studies show {study.name} names its best"
        raise BadInput(f"--again {arguments.again}: study {study.name} has no such trial; {hint}")
    fixed = {**study.config["fixed"], **known[trial]["settings"]}
    if start := study.config.get("init"):
        fixed[transfer.SETTING] = start["from"]
    fixed.update(assignments(arguments.set))
    budget = {"samples": _AGAIN, "keep": max(_AGAIN, arguments.samples or 0), "workers": None}
    return SearchSpace(f"{study.name}-{trial}", study.config["family"], study.config["data"], fixed, {}, budget)


def _name(data: str) -> str:
    """The study's name, where only data is given: what the file, folder or pattern is called."""
    stem = re.sub(r"[^\w.-]+", "_", expanded(data).resolve().stem).strip("._-")
    if not stem:
        raise BadInput(f"--data {data}: gives the study no name; give it one with --study")
    return stem


def _check_settings(space: SearchSpace, family: Family) -> None:
    """Every fixed value, and both ends of every range with what makes it active."""
    for metric in family.snapshots.values():
        if metric.name in {*space.space, *space.fixed}:
            raise BadInput(f"search space {space.name}: {metric.name} is a metric of the family, not a setting")
    family.check(space.fixed)
    for corner in search_spaces.corners(space.space):
        try:
            family.check({**space.fixed, **corner})
        except BadInput as error:
            raise BadInput(f"search space {space.name}: {error}") from None


def _check_feasible(space: SearchSpace, family: Family, data: Any, seed: int) -> None:
    """Something of the space can be trained on the data (None: it is not tried): of some points one gives a learner."""

    def feasible(point: Mapping[str, Any]) -> bool:
        return family.feasible(space.data, {**space.fixed, **point})

    searcher = searchers.create("random", space.space, "", "min", seed, feasible)
    reason = ""
    for number in range(_TRIED):
        point = searcher.suggest(str(number))
        if not isinstance(point, dict):
            break
        if data is None:
            return
        try:
            family.learner(family.check({**space.fixed, **point}), data, Place(), seed)
            return
        except BadInput as error:
            reason = reason or f" ({error})"
        except Exception as error:  # as each of its trials would end
            line = (str(error).splitlines() or [""])[0][:160]
            reason = reason or f" ({type(error).__name__}: {line})"
    raise BadInput(f"search space {space.name}: no model of it can be made for this data{reason}")


def _objective(asked: str | None, family: Family) -> str:
    if asked is None:
        return family.metric.name
    name = asked.removeprefix("best_")
    _one_of("--objective", name, tuple(m.name for m in family.snapshots.values()))
    return name


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise BadInput(f"{option} {value}: unknown; {hint}")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
