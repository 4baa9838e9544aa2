"""The Celery tasks: what Celery retries and Flower shows."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from celery.exceptions import Retry

from workers import tasks
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
