"""What a worker process knows of a run without reading it again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.engine.interface import RunFacts
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, Move, StagedNode
from workers.runs.run import Run
from workers.runs.runtime import Runtime

NODE = "model.p.a"
PLANNED, BEGAN = 1795466744.8376944, 1795466745.1234567
"""With more digits than a script keeps of a number."""


def process(ledger: Ledger) -> Runtime:
    runtime: Any = object.__new__(Runtime)
    runtime.ledger, runtime._runs = ledger, OrderedDict()
    return runtime  # type: ignore[no-any-return]


def claim(ledger: Ledger, run_id: str, step: str) -> Claim:
    granted = ledger.claim(run_id, step, "here:1")
    assert isinstance(granted, Claim)
    return granted


def known(runtime: Runtime, run_id: str, *, begun: bool = False) -> Run:
    run = runtime.run(run_id, begun=begun)
    assert run is not None
    return run


def test_stored_facts_are_kept_as_others_read_them(ledger: Ledger) -> None:
    run_id = new_run_id()
    ledger.submit(RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p"))
    planner, starter = process(ledger), process(ledger)
    plan = claim(ledger, run_id, "@plan")
    run = known(planner, run_id)
    run.spec = msgspec.structs.replace(run.spec, invocation_id="i", started_at=PLANNED)
    planned = RunFacts(context_key="k", selected=(NODE,), flattened=(NODE,), total=1)
    facts: dict[str, str | int | float] = {
        "invocation_id": "i", "started_at": repr(PLANNED), "mode": "message", "lock": "", "parallel": 1,
        "facts": msgspec.json.encode(planned).decode(),
    }  # fmt: skip
    ledger.stage(plan, [StagedNode(NODE, 0, 1, ())], roots=(NODE,))
    ledger.finish(plan, Move(word="planned", facts=facts, nodes=1))
    planner.keep(run, facts)
    assert known(planner, run_id) is run
    assert run == known(starter, run_id)

    start = claim(ledger, run_id, "@start")
    began: dict[str, str | int | float] = {"began": repr(BEGAN)}
    ledger.finish(start, Move(word="success", facts=began))
    starter.keep(known(starter, run_id), began)
    seen = known(starter, run_id, begun=True).facts
    assert seen is not None
    assert seen.began == BEGAN
    assert known(planner, run_id, begun=True) == known(process(ledger), run_id) == known(starter, run_id)


def test_removed_run_is_none(ledger: Ledger) -> None:
    assert process(ledger).run(new_run_id()) is None
