"""What the ranks of a trial report, told to Ray Tune by the trial's own process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.queue import Empty, Queue

_WAIT = 0.5  # seconds


class Relay(UserCallback):
    """Puts the first rank's metrics into a queue.

    Not Ray's TuneReportCallback: it has Tune's own thread put them into a queue of one place that this very thread
    empties. Where the trial's last report has taken the place meanwhile, both wait for ever.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self._queue.put(dict(metrics[0]))


def relayed(trainer: Callable[[Relay], Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Run a Ray Train trainer to its end, and report meanwhile what its first rank reports.

    Args:
        trainer: makes it, with the callback that it is to have.

    Raises:
        Exception: whatever `fit` raises.
    """
    queue, ended = Queue(actor_options={"num_cpus": 0}), Future[None]()

    def fit() -> None:
        try:
            trainer(Relay(queue)).fit()
            ended.set_result(None)
        except BaseException as error:
            ended.set_exception(error)

    Thread(target=fit, name="ranks", daemon=True).start()
    try:
        while True:
            last = ended.done()  # asked before the queue: then nothing more comes into it
            try:
                report(queue.get(timeout=_WAIT))
            except Empty:
                if last:
                    break
        ended.result()
    finally:
        queue.shutdown(force=True)
