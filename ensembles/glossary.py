"""The report's words, each in a sentence."""

from __future__ import annotations

from models.base import Family, Metric

_SEARCH = {
    "study": "one search: its trials, their checkpoints and the ensemble, in one folder",
    "trial": "one model, trained with one choice of the searched settings and a seed of its own",
    "setting": "a number or choice that is fixed before training (a hyperparameter)",
    "validation": "the samples that models are not trained on and are ranked by",
    "step": "how far training was, in the family's own count (updates or epochs)",
    "checkpoint": "the weights of a trial's model at one moment; a trial keeps those below, its snapshots",
}
_ENSEMBLE = {
    "ensemble": "what several checkpoints, its members, predict together: averaged by their weights",
    "effectively": "how many equal members the ensemble is worth: one over the sum of the squared weights",
    "best single model": "the checkpoint that is best on the samples it was chosen on, scored as the ensemble is",
    "in sample": "scored on the very samples that members and weights were chosen on: too good",
    "out of fold": "scored on samples that the choice of members did not see: chosen on four fifths of the groups and "
    "scored on the last fifth, five times over",
    "holdout": "samples that nothing saw before the ensemble was finished, scored once",
    "group": "samples that belong together (windows of a trace, voxels of an event) and are never split",
    "standard error": "how far a score would scatter over other samples of the kind; found by leaving out blocks of "
    "groups in turn (jackknife)",
    "greedy": "members are added one after the other, each time the one that helps most, in many random halves of the "
    "data; the weights are averaged",
    "topn": "the mean of the N best checkpoints",
}
_ENDS = {
    "finished": "trained to the end of its budget",
    "stopped": "ended early by the scheduler, as others were better",
    "diverged": "the loss was no number any more",
    "oom": "there was not enough memory",
    "failed": "ended by an error, which its row tells",
    "interrupted": "running, or cut short: the same command goes on with it",
}


def glossary(family: Family) -> dict[str, str]:
    """Word -> what it means in a report of this family."""
    snapshots = {name: f"snapshot of a trial: {_best(metric)}" for name, metric in family.snapshots.items()}
    metrics = {metric.name: _told(metric) for metric in (family.metric, *family.snapshots.values())}
    return {**metrics, **_SEARCH, **snapshots, **_ENSEMBLE, **_ENDS}


def _told(metric: Metric) -> str:
    better = "larger" if metric.mode == "max" else "smaller"
    return f"{metric.describes}; {better} is better" if metric.describes else f"{better} is better"


def _best(metric: Metric) -> str:
    return f"where {metric.name} was {'largest' if metric.mode == 'max' else 'smallest'}"
