"""Which process is speaking: several workers may answer at one address, so each answer and each metric says it."""

from __future__ import annotations

import os
import socket

from .status import ProcessInfo


def instance_id(template: str) -> str:
    """The name of this process: the setting `instance_id` with `{hostname}` and `{pid}` filled in.

    It is the same for as long as the process lives, and another one in a process that was forked from this one.
    """
    return template.replace("{hostname}", socket.gethostname()).replace("{pid}", str(os.getpid()))


def this_process(template: str) -> ProcessInfo:
    """This process, for answers. `template` is the setting `instance_id`."""
    return ProcessInfo(instance_id=instance_id(template), host=socket.gethostname(), pid=os.getpid())
