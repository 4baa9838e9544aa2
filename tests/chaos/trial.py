"""One trial: executes a real run with the faults of a seed and compares its outcome with an undisturbed run's."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import redis

from producer.client import RelayClient
from tests.chaos.faults import FAULTS, Drawn, Struck
from tests.chaos.journal import Execution, at_once, committed_twice, written_late
from tests.chaos.scenarios import Arena
from tests.chaos.stack import Stack
from tests.chaos.verdict import Verdict, recoveries
from workers.contract.keys import Keys
from workers.contract.results import RUN_TERMINAL
from workers.verify.compare import OWN_LINES, Allowance, compare
from workers.verify.rules import Rules, Window
from workers.verify.sides import Outcome, Side, _files, _json, relay_program

_POLL = 0.02
_KILLED = -9


class Trial:
    """A disturbed run.

    Args:
        seed: seed of the faults.
        drawn: the faults.
        patience: seconds within which the run must end.
    """

    def __init__(
        self, stack: Stack, arena: Arena, seed: int, drawn: Sequence[Drawn], *, patience: float
    ) -> None:
        self.stack, self.arena, self.seed = stack, arena, seed
        self.run = ""
        self._struck = [Struck(each) for each in drawn]
        self._patience = patience
        self._over = threading.Event()
        self._client = stack.server.client(socket_timeout=5)
        self._relay = RelayClient(stack.server.broker_url)
        self._output = arena._side.folder / "lines.txt"
        self._lock = threading.Lock()
        self._producers: list[subprocess.Popen[bytes]] = []
        self._differences: list[str] = []

    # interface for faults

    @property
    def ended(self) -> bool:
        """Whether the run has ended, or the trial."""
        return self._over.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, at most until the end of the trial."""
        self._over.wait(seconds)

    def replace_producer(self) -> str:
        """Kill the run's producer and start another one, which watches the run."""
        with self._lock:
            first = self._producers[-1]
            first.kill()
            first.wait(10)
            self._start_producer(["watch", "--plain", self.run])
        return "another attached"

    def _start_producer(self, args: Sequence[str]) -> None:
        """Start a dbt-relay command as a process. Its lines replace those of the producer before."""
        side = self.arena._side
        with self._output.open("wb") as output, self._output.with_suffix(".err").open("ab") as errors:
            self._producers.append(
                subprocess.Popen(
                    [*relay_program(), *args], cwd=side.project, env=dict(side.environ), stdout=output,
                    stderr=errors, stdin=subprocess.DEVNULL,
                )
            )  # fmt: skip

    # execution

    def execute(self) -> Verdict:
        """Execute the run with its faults. Returns the verdict."""
        side = self.arena.reset()
        self._output.with_suffix(".err").unlink(missing_ok=True)
        began = time.time()
        side.rules.windows.append(Window(began=began, ended=float("inf")))
        self._start_producer(self.arena.scenario.command)
        threads: list[threading.Thread] = []
        in_time = False
        try:
            self.run = self._find_run(began)
            threads = [threading.Thread(target=self._strike, args=(each,)) for each in self._struck]
            for thread in threads:
                thread.start()
            in_time = self._wait(began + self._patience)
        finally:
            seconds = time.time() - began
            self._over.set()
            for thread in threads:
                thread.join(120)
            for producer in self._producers if not in_time else ():
                producer.kill()
                producer.wait(10)
            self._differences += self.stack.crashed()
            self.stack.mend()
        ended = time.time()
        if in_time:
            self._judge(side, ended)
        else:
            self._differences.append(
                f"the run did not end in {self._patience:g} s: {self._unfinished_steps()}"
            )
            self._differences += [f"{host.name} says\n{host.log(25)}" for host in self.stack.hosts]
        executions = self.stack.journal.executions(self.run)
        return Verdict(
            seed=self.seed, scenario=self.arena.name, lease=self.stack.lease,
            faults=[f"{each.drawn}{f' ({each.note})' if each.note else ''}" for each in self._struck if each.at],
            missed=[str(each.drawn) for each in self._struck if not each.at],
            seconds=seconds, steps=len({each.step for each in executions}), executions=len(executions),
            recoveries=[each for struck in self._struck for each in recoveries(struck, executions)],
            repeated=sorted(committed_twice(executions)), producers=len(self._producers),
            lines_lost=self._lines_lost(side) if in_time else [], differences=self._differences,
        )  # fmt: skip

    def _find_run(self, began: float) -> str:
        while time.time() < began + self._patience:
            for run_id in self._relay.store.active_runs():
                return run_id
            if self._producers[-1].poll() is not None:
                break
            time.sleep(_POLL)
        raise AssertionError(f"the run was not submitted: {self._stderr()}")

    def _strike(self, struck: Struck) -> None:
        """Wait for a fault's time, then let it strike."""
        wanted = struck.drawn.share * len(self.arena.steps)
        while not self.ended:
            if len({each.step for each in self.stack.journal.executions(self.run)}) >= wanted:
                self.pause(struck.drawn.delay)
                if not self.ended:
                    try:
                        FAULTS[struck.drawn.name](self, struck)
                    except (redis.RedisError, OSError) as error:  # caused by another fault
                        struck.note = f"{struck.note} {type(error).__name__}: {error}".strip()
                return
            self.pause(_POLL)

    def _wait(self, deadline: float) -> bool:
        """Wait until run and producer have ended. Returns whether they did before `deadline`."""
        while time.time() < deadline:
            self.stack.notice_deaths(self.run)
            with self._lock:
                code = self._producers[-1].poll()
            if code is None:
                self.pause(_POLL)
                continue
            if self._state() in RUN_TERMINAL:
                return True
            if code != _KILLED:
                self._differences.append(f"the producer gave up with {code}, not the run: {self._stderr()}")
            with self._lock:
                self._start_producer(["watch", "--plain", self.run])
            self.pause(0.5)
        return False

    def _state(self) -> str:
        try:
            state: Any = self._client.hget(Keys().run(self.run), "state")
        except (redis.RedisError, OSError):
            return ""
        return str(state or "")

    def _stderr(self) -> str:
        return self._output.with_suffix(".err").read_text()[-1000:]

    def _unfinished_steps(self) -> str:
        states: Any = self._client.hgetall(Keys().states(self.run))
        facts = self._relay.store.facts(self.run)
        waiting = {step: state for step, state in states.items() if state != "done"}
        return json.dumps({"run": {name: facts.get(name) for name in _COUNTERS}, "steps": waiting})

    # the verdict

    def _judge(self, side: Side, ended: float) -> None:
        executions = self._executions_at_rest(ended)
        twice = committed_twice(executions)
        side.rules.windows[-1].ended = ended
        lines = self._output.read_text(errors="replace").splitlines()
        folder = side.project / "target"
        outcome = Outcome(
            return_code=self._producers[-1].returncode, lines=lines, run_results=_json(folder / "run_results.json"),
            manifest=_json(folder / "manifest.json"), files=_files(folder), relations=side.warehouse.relations(),
        )  # fmt: skip
        if outcome.run_results is not None:
            side.rules.windows[-1].invocation_id = outcome.run_results["metadata"]["invocation_id"]
        baseline = self.arena.baseline
        assert baseline is not None
        seen = compare(
            self._comparable(baseline, baseline, twice), self._comparable(outcome, baseline, twice),
            (self.arena.rules, side.rules), Allowance(),
        )  # fmt: skip
        self._differences += [each.shown("chaos").replace("plain:", "calm: ") for each in seen.differences]
        self._differences += [
            f"executed twice at once: {each}" for each in at_once(executions, self.stack.absences, ended)
        ]
        self._differences += [f"written by a fenced worker: {each}" for each in written_late(executions)]
        self._differences += [f"left in Redis: {each}" for each in self._left_in_redis()]

    def _executions_at_rest(self, ended: float) -> list[Execution]:
        """Wait until no execution is running. Returns all executions."""
        deadline = time.time() + 30
        while True:
            self.stack.notice_deaths(self.run)
            executions = self.stack.journal.executions(self.run)
            going = [each for each in executions if each.left is None and not self.stack.is_dead(each.pid)]
            if not going:
                return executions
            if time.time() > deadline:
                self._differences.append(f"still executed after the run's end: {going[0]}")
                return executions
            time.sleep(_POLL)

    def _comparable(self, outcome: Outcome, baseline: Outcome, twice: set[str]) -> Outcome:
        """Remove from an outcome what may differ for a step that ran again after its commit.

        That is: the rows that each execution adds (`Scenario.at_least_once`); the warehouse's message, because the
        second execution refreshes what the first created, wherever it is repeated; and the executed statements.
        """
        if not twice or outcome.run_results is None or baseline.run_results is None:
            return replace(outcome, lines=[], stderr="")
        calm = {each["unique_id"]: each for each in baseline.run_results["results"]}
        mine = {each["unique_id"]: each for each in outcome.run_results["results"]}
        again = twice & calm.keys() & mine.keys()
        relations = dict(outcome.relations)
        for name, writers in self.arena.scenario.at_least_once.items():
            for key, relation in outcome.relations.items():
                if key.rpartition(".")[2] == name and twice & set(writers):
                    relations[key] = replace(relation, rows=list(dict.fromkeys(relation.rows)))
        patched = [
            {**each, **{name: calm[each["unique_id"]][name] for name in ("message", "adapter_response")}}
            if each["unique_id"] in again else each
            for each in outcome.run_results["results"]
        ]  # fmt: skip
        replacements = [_message_replacement(mine[each], calm[each]) for each in again]
        statements = [f"/{each.rpartition('.')[2]}.sql" for each in again]
        return replace(
            outcome, lines=[], stderr="",
            relations={
                key: replace(relation, rows=_replace_in(relation.rows, replacements)) for key, relation in relations.items()
            },
            run_results=_replace_in({**outcome.run_results, "results": patched}, replacements),
            manifest=_replace_in(outcome.manifest, replacements),
            files={
                name: _replace_in(text, replacements) for name, text in outcome.files.items()
                if not (name.startswith("run/") and name.endswith(tuple(statements)))
            },
        )  # fmt: skip

    def _lines_lost(self, side: Side) -> list[str]:
        """Lines of an undisturbed run that are missing."""
        baseline = self.arena.baseline
        assert baseline is not None
        lines = self._output.read_text(errors="replace").splitlines()
        return sorted(_counted(baseline.lines, self.arena.rules) - _counted(lines, side.rules))

    def _left_in_redis(self) -> list[str]:
        """Keys of the run that only an active run may have."""
        keys = Keys()
        found = [
            f"{key} has {member}"
            for key in (keys.leases(), keys.watches(), keys.active())
            for member in self._client.zrange(key, 0, -1)
            if str(member).startswith(self.run)
        ]
        found += [
            key
            for key in self._client.scan_iter(f"{keys.locks()}*")
            if self._client.hget(key, "run") == self.run
        ]
        found += [
            key for key in self._client.scan_iter(f"{keys.run(self.run)}*") if self._client.ttl(key) < 0
        ]
        return found

    def close(self) -> None:
        """Close connections."""
        self._client.close()
        self._relay.store.client.close()


_COUNTERS = ("state", "mode", "total", "done", "pending", "inflight", "queued", "parallel")


def _message_replacement(mine: dict[str, Any], calm: dict[str, Any]) -> tuple[re.Pattern[str], str]:
    """Pattern of a node's message before its relation, as a hook logs it, and the undisturbed run's message."""
    relation = str(mine["relation_name"]).replace('"', "").partition(".")[2]
    return re.compile(rf"{re.escape(mine['message'] or '')}(?= \S*\.{re.escape(relation)}\b)"), calm[
        "message"
    ] or ""


def _replace_in(value: Any, replacements: Sequence[tuple[re.Pattern[str], str]]) -> Any:
    """Apply replacements to all texts in a value, recursively."""
    if isinstance(value, str):
        for pattern, text in replacements:
            value = pattern.sub(text, value)
        return value
    if isinstance(value, dict):
        return {key: _replace_in(each, replacements) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_in(each, replacements) for each in value)
    return value


def _counted(lines: Sequence[str], rules: Rules) -> Counter[str]:
    mine = (rules.line(line) for line in lines if line.strip())
    return Counter(line for line in mine if not any(own in line for own in OWN_LINES))
