"""A configuration of the original program, run as it is: train, validate, schedule, log, store, epoch by epoch.

<output_dir>/summaries_0.csv                   a line an epoch, tab-separated
             checkpoints/checkpoint_024.pth.tar
             inference/epoch24-..._yinf-TPC1.npy
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ground.errors import BadInput, CommandFailed
from ground.files import atomic_path
from ground.tables import read_table
from models.base import Diverged, Place
from models.cellnet import checkpoint
from models.cellnet.data import CellData
from models.cellnet.events import Batch, Events, Store
from models.cellnet.learner import CellNetLearner
from models.cellnet.names import renamed
from models.cellnet.original import Original, Stored, read

CACHE = 2 << 30  # bytes of files and kernel maps that are kept
Say = Callable[[str], None]


def train(path: Path, resume: int | None, place: Place, say: Say, seed: int = 0) -> None:
    """Run a configuration to its last epoch; one without training files evaluates once.

    Args:
        path: the YAML file.
        resume: the epoch to go on from; -1: the last one of the summaries; None: from the beginning, unless the
            configuration names a start_epoch or a transfer.
        place: where it runs; of several ranks torch's process group stands.
        say: told what happens.

    Raises:
        BadInput: a wrong configuration, a missing or unfit checkpoint, an output that holds another run.
        CommandFailed: training diverged.
    """
    config = read(path)
    learner = _learner(config, place, seed)
    epoch = _begin(config, learner, resume, say)
    if config.train:
        first = epoch + 1
        if first >= config.epochs:
            say(f"{config.output}: epoch {epoch} is there, of {config.epochs}: nothing is left to do")
        for number in range(first, config.epochs):
            _epoch(config, learner, number, place, say)
    else:
        begun = time.perf_counter()
        found = _evaluate(config, learner, epoch, config.stored)
        told = _columns(config, "valid", found, time.perf_counter() - begun)
        say(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4g}" for name, value in told.items()))


def _learner(config: Original, place: Place, seed: int) -> CellNetLearner:
    store = Store(CACHE)
    train, inference = (Events(files, store, str(config.path)) for files in (config.train, config.inference))
    none = Events([], store, str(config.path))
    # without training files there is a learner that only looks
    data = CellData(config.options, str(config.path), train if config.train else inference, inference, none, inference)
    return CellNetLearner(config.settings, data, place, seed, watch="told")


def _begin(config: Original, learner: CellNetLearner, resume: int | None, say: Say) -> int:
    """The last epoch that is behind the learner, its checkpoint loaded; -1: none."""
    rows = _summaries(config.output)
    epoch = config.start if config.start is not None else resume
    if epoch is None and config.transfer:
        epoch = -1
    if epoch is None:
        if not config.train:
            raise BadInput(
                f"{config.path}: has no train_i, and no checkpoint is named (train.start_epoch, or --resume)"
            )
        if rows is not None:
            last = int(rows["epoch"].iloc[-1])
            raise BadInput(f"{config.output}: holds a run up to epoch {last}; go on with --resume, or move it away")
        return -1
    if epoch < 0:
        if rows is None:
            raise BadInput(f"{config.output}: has no summaries_0.csv, so there is no last epoch to go on from")
        epoch = int(rows["epoch"].iloc[-1])
    file = checkpoint.place(config.output, epoch)
    content = checkpoint.read(file)
    network = learner.network
    # a transfer that was begun and is gone on with has the right head by then
    over = config.transfer and not checkpoint.same_head(content["model"], network)
    checkpoint.fill(file, content["model"], network, trunk_only=over)
    learner.step = (epoch + 1) * learner.epoch_steps
    if not over and config.train:
        if "optimizer" not in content:
            raise BadInput(f"{file}: holds no optimizer to go on with")
        checkpoint.fill_optimizer(file, content["optimizer"], learner.optimizer)
        learner.load_plateau(content.get("plateau") or [0])
    say(f"{file}: {'its trunk is taken over' if over else 'loaded'}")
    return epoch


def _epoch(config: Original, learner: CellNetLearner, number: int, place: Place, say: Say) -> None:
    row: dict[str, float] = {"epoch": number}
    begun = time.perf_counter()
    try:
        while learner.epoch == number:
            learner.train_piece()
        trained = {name.replace("train_", ""): value for name, value in learner.last_epoch.items()}
        row |= _columns(config, "train", trained, time.perf_counter() - begun)
        if config.inference:
            begun = time.perf_counter()
            found = _evaluate(config, learner, number, config.stored)
            row |= _columns(config, "valid", found, time.perf_counter() - begun)
            if config.watched:
                # more is better: a loss is turned round
                sign, name = (-1, "valid_loss") if config.watched == "loss" else (1, f"valid_{config.watched}")
                learner.follow(sign * row[name])
    except Diverged as error:
        raise CommandFailed(f"epoch {number}: {error}; the last checkpoint is that of the epoch before") from None
    say(f"epoch {number}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch"))
    if place.rank == 0:
        checkpoint.write(
            checkpoint.place(config.output, number), learner.network, learner.optimizer, learner.plateau_state()
        )
        _append(config.output, row)


def _columns(config: Original, part: str, found: dict[str, float], seconds: float) -> dict[str, float]:
    """The summaries' columns of one part of an epoch."""
    out = {f"{part}_loss": found["loss"]} if "loss" in found else {}
    if config.accuracy and "accuracy" in found:
        out[f"{part}_{config.accuracy}"] = found["accuracy"]
    return {**out, f"{part}_time": seconds}


def _evaluate(config: Original, learner: CellNetLearner, epoch: int, stored: Stored | None) -> dict[str, float]:
    """Loss and accuracy of the inference files; what is to be stored is written."""
    numbers = {file.path: number for number, file in enumerate(config.inference)}
    parts: list[np.ndarray] = []

    def see(batch: Batch, values: np.ndarray) -> None:
        (file,) = batch.files
        if stored is None or epoch % stored.epochs or numbers[file.path] % stored.samples:
            return
        parts.append(values)
        if sum(map(len, parts)) < file.voxels:
            return  # a large file comes in pieces
        name = f"epoch{epoch}-{renamed(file.path, 'yinf')}"
        with atomic_path(config.output / stored.folder / name) as temporary:
            np.save(temporary, np.concatenate(parts).astype(np.float32).reshape(1, -1, 1), allow_pickle=False)
        parts.clear()

    found = learner.examine(see, truth_needed=False)
    return {name.replace("val_", ""): value for name, value in found.items() if name.startswith("val_")}


def _summaries(output: Path) -> pd.DataFrame | None:
    file = output / "summaries_0.csv"
    if not file.exists():
        return None
    rows = read_table(file, index=False, separator=" ")
    if "epoch" not in rows or not len(rows):
        raise BadInput(f"{file}: has no column epoch, or no row")
    return rows


def _append(output: Path, row: dict[str, float]) -> None:
    """A line more. Lines of this epoch and later ones, of a run that was gone back in, are kept in a copy."""
    file, rows = output / "summaries_0.csv", _summaries(output)
    if rows is not None and (rows["epoch"] >= row["epoch"]).any():
        shutil.copyfile(file, _free(output / f"summaries_0.until-{int(rows['epoch'].max())}.csv"))
        rows = rows[rows["epoch"] < row["epoch"]]
    table = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
    table["epoch"] = table["epoch"].astype(int)
    with atomic_path(file) as temporary:
        table.to_csv(temporary, sep="\t", float_format="%.6f", index=False)


def _free(file: Path) -> Path:
    """The path, or the first numbered one like it that is not taken."""
    number, free = 1, file
    while free.exists():
        number += 1
        free = file.with_stem(f"{file.stem}-{number}")
    return free


def placed(device: str, backend: str | None, config: Path) -> Place:
    """Where this process runs: alone, or (with a backend) one of several that torchrun or Slurm started.

    Raises:
        BadInput: the environment names no rank, or the device is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: there is no GPU here")
    if backend is None:
        return Place(device)
    given = os.environ
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in given and ranks in given:
            break
    else:
        raise BadInput(f"-d {backend}: the environment names no rank; start it by torchrun or srun")
    number, count = int(given[rank]), int(given[ranks])
    # torchrun says where rank 0 listens; under Slurm the ranks meet in a file beside the configuration
    meeting = "env://"
    if rank != "RANK":
        job = f"{given.get('SLURM_JOB_ID', '0')}-{given.get('SLURM_STEP_ID', '0')}"
        meeting = f"file://{config.resolve().parent}/.ranks-{job}"
    if device == "cuda":
        local = int(given.get("LOCAL_RANK", given.get("SLURM_LOCALID", 0)))
        torch.cuda.set_device(local % torch.cuda.device_count())
    torch.distributed.init_process_group(backend, init_method=meeting, rank=number, world_size=count)
    return replace(Place(device), rank=number, ranks=count)


def leave(place: Place) -> None:
    """Part from the other ranks."""
    if place.ranks > 1:
        torch.distributed.destroy_process_group()
