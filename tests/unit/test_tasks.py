"""The Celery tasks: what Celery retries and Flower shows."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context
from celery.exceptions import Retry

from workers import tasks
from workers.runs import nested_task
from workers.runs.task_errors import TransientStepError


def test_retried_node_keeps_its_name_in_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setattr(tasks.RelayTask, "apply_async", lambda *_, **options: sent.update(options))
    run_id = "20250101T000000-0123456789ab"
    error = TransientStepError("duckdb_file_locked: it is locked", 1.5, run_id, "model.shop.orders")
    tasks.node.push_request(id="1", args=(run_id, "model.shop.orders"), kwargs={}, called_directly=False)
    try:
        with pytest.raises(Retry):
            tasks.node.retry(exc=pickle.loads(pickle.dumps(error)))
    finally:
        tasks.node.pop_request()
    assert (sent["countdown"], sent["shadow"]) == (1.5, "model orders")
    assert sent["argsrepr"] == f"('model.shop.orders', '{run_id}')"


def test_retry_inside_of_another_task_keeps_the_priority_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[dict[str, Any]] = []

    def trace(_: Any, __: str, ___: Any, ____: Any, request: dict[str, Any], **_____: Any) -> SimpleNamespace:
        requests.append(request)
        return SimpleNamespace(info=None, retval=None)

    monkeypatch.setattr(nested_task, "trace_task", trace)
    parent: Any = SimpleNamespace(request=SimpleNamespace(hostname="w@h", root_id="1", id="1"))
    events: Any = SimpleNamespace(send=lambda *_, **__: None, flush=lambda: None)
    runtime: Any = SimpleNamespace(ledger=SimpleNamespace(priority={"run": 9}.get))
    nested_task.execute_as_own_task(parent, events, runtime, "run", "model.shop.orders")
    again = tasks.node.signature_from_request(Context(requests[0]), countdown=1)
    assert again.options["priority"] == 9
