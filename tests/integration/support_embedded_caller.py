"""A program that starts an embedded stack and ends in the way of its argument."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading

from producer.embedded.stack import EmbeddedStack, up, worker_command


def stand_in_command() -> list[str]:
    """The worker's command line with the stand-in app."""
    return [word.replace("workers.app", "support_embedded_app") for word in worker_command(2)]


def print_facts(**facts: object) -> None:
    """Print facts for the test."""
    print(json.dumps(facts), flush=True)


def grandchild() -> None:
    """Start another stack in a fork, and leave it to be cleaned up."""
    stack = EmbeddedStack(command=["sleep", "1000"])
    info = stack.start()
    print_facts(child=str(info.runtime_dir))


def main(mode: str) -> None:
    """Start a stack, print its facts, and end."""
    if mode == "up":
        print_facts(pid=up(2, command=stand_in_command(), wait_ready=60).pid)
        return
    stack = EmbeddedStack(workers=2, command=stand_in_command())
    info = stack.start()
    stack.wait_ready(60)
    if mode == "fork":
        context = multiprocessing.get_context("fork")
        child = context.Process(target=lambda: (stack.stop(), grandchild()))
        child.start()
        child.join()
        stack.check()  # the child has ended only its own stack
    if mode == "hold" and os.fork() == 0:  # a child that outlives this process
        signal.pause()
    if mode == "hold-unseen" and ctypes.PyDLL(None).fork() == 0:  # a fork without Python's fork hooks
        signal.pause()
    print_facts(dir=str(info.runtime_dir), guardian=info.pid, redis_url=info.redis_url)
    sys.stdin.readline()
    if mode in ("return", "fork"):
        return
    if mode == "raise":
        raise RuntimeError("on purpose")
    if mode == "thread":
        threading.Thread(target=stack.wait_ready).start()
        sys.exit(3)
    if mode == "os_exit":
        os._exit(4)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
