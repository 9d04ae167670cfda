"""Waiting for what can only be asked for, again and again."""

import threading
from collections.abc import Callable

from tests.processes import PATIENCE_SECONDS

ASK_EVERY_SECONDS = 0.02


def wait_until(reached: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Ask until `reached` says yes; fail after `seconds`."""
    never = threading.Event()
    for _ in range(round(seconds / ASK_EVERY_SECONDS)):
        if reached():
            return
        never.wait(ASK_EVERY_SECONDS)
    raise AssertionError("waited in vain")
