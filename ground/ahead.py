"""Work done ahead of who needs it, in one background thread and a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def ahead(make: Callable[[threading.Event], Iterator[T]], depth: int) -> Generator[T, None, None]:
    """The items of `make(stop)`, made up to `depth` of them before they are asked for.

    An error there is raised here, after the items that were made before it. Closing the generator (or dropping it)
    sets `stop` and waits for the thread, so none is left behind.
    """
    stop = threading.Event()
    ready: queue.Queue[Any] = queue.Queue(depth)

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in make(stop):
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
