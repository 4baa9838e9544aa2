"""Masking keeps what is stored readable, whatever the secret looks like."""

from __future__ import annotations

import json

import pytest

from workers.engine.masking import mask_json

RESULT = {
    "status": "success", "unique_id": "model.p.a", "execution_time": 1.5, "failures": None,
    "message": 'refused "hunter2" and hunter22', "result": {"adapter_response": {"text": "hunter2"}},
    "extra_ctes": [["id", "select 'hunter2'"]],
}  # fmt: skip


def test_every_text_is_masked() -> None:
    masked = mask_json(json.dumps(RESULT).encode(), ["hunter2", "hunter22"])
    assert b"hunter2" not in masked
    assert json.loads(masked)["message"] == 'refused "*****" and *****'


@pytest.mark.parametrize("secret", ["success", "1", "null", '"', "{", "model.p.a", "s"])
def test_a_secret_that_reads_like_structure_changes_none(secret: str) -> None:
    masked = json.loads(mask_json(json.dumps(RESULT).encode(), [secret]))
    assert (masked["status"], masked["unique_id"]) == ("success", "model.p.a")
    assert (masked["execution_time"], masked["failures"]) == (1.5, None)
    assert masked.keys() == RESULT.keys()


def test_without_secrets_nothing_is_touched() -> None:
    raw = b'{"a": "b" }'
    assert mask_json(raw, []) is raw
