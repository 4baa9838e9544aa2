"""Settings from the environment, and formats of broker URLs."""

from __future__ import annotations

import pytest

from workers.contract.errors import DbtUsageError
from workers.contract.settings import Settings, celery_url, read_settings, redis_url, tls_options


def test_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"DBT_RELAY_QUEUE": ""}) == Settings()


def test_every_kind_of_value() -> None:
    settings = read_settings(
        {
            "DBT_RELAY_BROKER_URL": "redis://h/1", "DBT_RELAY_LEASE_SECONDS": "2.5", "DBT_RELAY_CONTEXTS": "3",
            "DBT_RELAY_EMBEDDED": "true", "DBT_RELAY_QUEUE": "q", "DBT_RELAY_SOMETHING_ELSE": "x", "HOME": "/h",
        }
    )  # fmt: skip
    assert (settings.broker_url, settings.lease_seconds, settings.contexts) == ("redis://h/1", 2.5, 3)
    assert (settings.embedded, settings.queue) == (True, "q")


def test_redis_url_is_the_fallback() -> None:
    assert read_settings({"REDIS_URL": "redis://a"}).broker_url == "redis://a"
    both = {"REDIS_URL": "redis://a", "DBT_RELAY_BROKER_URL": "redis://b"}
    assert read_settings(both).broker_url == "redis://b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_SECONDS", "soon"), ("LEASE_SECONDS", "0"), ("LEASE_SECONDS", "-1"), ("CONTEXTS", "0"),
        ("CONTEXTS", "2.5"), ("RESULT_TTL", "day"), ("MAX_LOSSES", "0"), ("EMBEDDED", "perhaps"),
        ("NODE_TIME_LIMIT", "1h"), ("NODE_SOFT_TIME_LIMIT", "-1"), ("RUN_DEADLINE", "nan"),
    ],
)  # fmt: skip
def test_invalid_value_is_named(name: str, value: str) -> None:
    with pytest.raises(DbtUsageError, match=f"DBT_RELAY_{name}='{value}'"):
        read_settings({f"DBT_RELAY_{name}": value})


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:6379", "it does not begin with redis://"),
        ("http://localhost:6379", "http:// is not a scheme of Redis"),
        ("amqp://guest@localhost//", "RabbitMQ is not supported"),
        ("sentinel://a:26379;sentinel://b:26379", "Sentinel is not supported"),
        ("redis://localhost:port", "host or port cannot be read"),
        ("redis://localhost:99999", "host or port cannot be read"),
        ("redis://localhost:0", "its port is 0"),
    ],
)
def test_invalid_broker_url_is_refused_with_reason(url: str, problem: str) -> None:
    for name in ("DBT_RELAY_BROKER_URL", "REDIS_URL"):
        with pytest.raises(DbtUsageError, match=problem) as caught:
            read_settings({name: url})
        assert str(caught.value).startswith(f"{name} is not the URL")


def test_tls_verifies_certificates_unless_told_otherwise() -> None:
    assert tls_options("redis://h") is None
    assert tls_options("rediss://h:6380/0") == {"ssl_cert_reqs": "required"}
    assert tls_options("rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem&db=1") == {
        "ssl_cert_reqs": "none", "ssl_ca_certs": "/ca.pem",
    }  # fmt: skip
    assert (
        celery_url("rediss://:p@h:1/2?ssl_ca_certs=/ca.pem&socket_timeout=3")
        == "rediss://:p@h:1/2?socket_timeout=3"
    )


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_RELAY_NAMESPACE", "mine")
    assert read_settings().namespace == "mine"


@pytest.mark.parametrize(
    ("celery", "plain"),
    [
        ("redis+socket:///run/r.sock", "unix:///run/r.sock"),
        ("redis+socket://:pw@/run/r.sock?virtual_host=2", "unix://:pw@/run/r.sock?db=2"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://h", "rediss://h"),
    ],
)
def test_broker_url_formats(celery: str, plain: str) -> None:
    assert redis_url(celery) == plain
    assert celery_url(plain) == celery
    assert redis_url(plain) == plain
    assert celery_url(celery) == celery


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hid/den@h:1/0",
        "redis://:hid[den@h/0",
        "redis://:x@h:hidden/0",
        "http://:hidden@h/0",
        "hidden",
    ],
)
def test_invalid_broker_url_is_not_shown(url: str) -> None:
    for form in (redis_url, celery_url):
        with pytest.raises(DbtUsageError, match="percent-encode") as refused:
            form(url)
        assert "hid" not in str(refused.value)
