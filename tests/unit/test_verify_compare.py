"""The comparison: it finds every kind of difference, and normalizes values that always differ."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from typing import Any

import pytest

from workers.verify.compare import Allowance, Compared, compare
from workers.verify.rules import Rules, Window
from workers.verify.sides import Outcome
from workers.verify.warehouses import Relation

BEGAN = {"plain": 1_700_000_000.0, "relay": 1_700_000_100.0}
IDS = {"plain": "0a0a0a0a-plain", "relay": "0b0b0b0b-relay"}


def rules(name: str) -> Rules:
    window = Window(began=BEGAN[name], ended=BEGAN[name] + 10, invocation_id=IDS[name])
    return Rules(f"/somewhere/{name}", f"db_{name}", [window])


def outcome(name: str) -> Outcome:
    at = datetime.fromtimestamp(BEGAN[name] + 3, timezone.utc)
    clock, stamp = at.strftime("%H:%M:%S"), at.strftime("%Y-%m-%d %H:%M:%S.%f")
    result = {
        "unique_id": "model.p.m", "status": "success", "message": "OK", "failures": None,
        "timing": [{"name": "compile"}, {"name": "execute"}], "thread_id": f"Thread-{len(name)} (worker)",
        "execution_time": BEGAN[name] / 1e9, "adapter_response": {"_message": "OK"},
        "compiled_code": f"select '{IDS[name]}' from db_{name}.s.t", "relation_name": f"db_{name}.s.m",
    }  # fmt: skip
    return Outcome(
        return_code=0,
        lines=[
            f"{clock}  Running with dbt",
            f"{clock}  {len(name)} of 9 OK created model s.m ........ [OK in 0.{len(name)}s]",
            f"{clock}  written to /somewhere/{name}/target",
        ],
        run_results={
            "metadata": {"generated_at": stamp, "invocation_id": IDS[name]}, "elapsed_time": 1.0,
            "args": {"project_dir": f"/somewhere/{name}"}, "results": [result],
        },
        manifest={
            "metadata": {"generated_at": stamp}, "nodes": {"model.p.m": {"created_at": BEGAN[name], "tags": ["a"]}}
        },
        files={"compiled/m.sql": f"select '{stamp}'", "manifest.json": "", "partial_parse.msgpack": name},
        relations={
            "s.m": Relation(
                kind="table", columns=[("id", "INTEGER"), ("at", "TIMESTAMP"), ("dbt_scd_id", "VARCHAR")],
                comment="about it", rows=[(1, at.replace(tzinfo=None), "hash" + name), (2, None, "h")],
            )
        },
    )  # fmt: skip


def compared(relay: Outcome, **allowance: Any) -> Compared:
    return compare(outcome("plain"), relay, (rules("plain"), rules("relay")), Allowance(**allowance))


def test_values_that_always_differ_are_normalized() -> None:
    seen = compared(outcome("relay"), order=True)
    assert [str(difference) for difference in seen.differences] == []
    assert (seen.nodes, seen.relations) == (1, 1)


@pytest.mark.parametrize("length", range(50, 62))
def test_number_of_a_node_does_not_change_the_padding_of_its_line(length: int) -> None:
    """As dbt_common.events.format.format_fancy_output_line writes them."""
    seen = {
        rules("plain").line(
            "22:15:13  "
            + f"{place} of 118 OK created model {'m' * length} ".ljust(80, ".")
            + " [OK in 0.10s]"
        )
        for place in (9, 99, 100)
    }
    assert len(seen) == 1


def change(path: str, value: Any) -> Outcome:
    """dbt-relay's outcome with one value changed."""
    changed: Any = copy.deepcopy(outcome("relay"))
    *way, last = path.split("/")
    holder = changed
    for part in way:
        holder = (
            getattr(holder, part) if hasattr(holder, part) else holder[int(part) if part.isdigit() else part]
        )
    if isinstance(holder, (Outcome, Relation)):
        setattr(holder, last, value)
    elif isinstance(holder, list):
        holder[int(last)] = value
    else:
        holder[last] = value
    return changed  # type: ignore[no-any-return]


LATER = datetime(2023, 11, 15, 22, 0, 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("return_code", 1),
        ("run_results", None),
        ("run_results/results", []),
        ("run_results/results/0/status", "error"),
        ("run_results/results/0/failures", 1),
        ("run_results/results/0/message", "another"),
        ("run_results/results/0/thread_id", "main"),
        ("run_results/results/0/timing", []),
        ("run_results/results/0/execution_time", None),
        ("run_results/results/0/adapter_response", {}),
        ("run_results/results/0/compiled_code", "select 'another invocation'"),
        ("run_results/results/0/relation_name", "db_plain.other.m"),
        ("run_results/args/project_dir", "/elsewhere"),
        ("run_results/elapsed_time", None),
        ("manifest", None),
        ("manifest/nodes/model.p.m/tags", ["b"]),
        ("manifest/nodes", {}),
        ("manifest/metadata/generated_at", None),
        ("files/compiled/m.sql", "select 1"),
        ("files/extra.json", ""),
        ("relations", {}),
        ("relations/s.m/kind", "view"),
        ("relations/s.m/comment", None),
        ("relations/s.m/columns/0", ("id", "BIGINT")),
        ("relations/s.m/extras", ["a constraint"]),
        ("relations/s.m/definition", "select 1"),
        ("relations/s.m/rows/0", (3, None, "h")),
        ("relations/s.m/rows/0", (1, LATER, "hashrelay")),
        ("relations/s.m/rows/1", (2, None, None)),
        ("relations/s.m/rows/1", (2, None, "hashrelay")),
        ("lines", []),
        ("lines/0", "22:15:13  Running with another dbt"),
        ("lines/1", "22:15:13  1 of 8 OK created model s.m ........ [OK in 0.1s]"),
        ("lines/1", "22:15:13  1 of 9 ERROR created model s.m ........ [ERROR in 0.1s]"),
    ],
)  # fmt: skip
def test_difference_is_found(path: str, value: Any) -> None:
    if path.startswith("files/"):
        changed = outcome("relay")
        changed.files[path.removeprefix("files/")] = value
    else:
        changed = change(path, value)
    assert len(compared(changed).differences) == 1


def test_additional_row_is_found() -> None:
    doubled = outcome("relay")
    doubled.relations["s.m"].rows.append((2, None, "h"))
    assert compared(doubled).differences


@pytest.mark.parametrize(
    ("line", "differences"),
    [
        ("[HINT] Your parse is taking a long time. You can speed up your parsing", 0),
        ("[HINT] You're rebuilding a lot from scratch. You can use state", 0),
        ("[HINT] Your models are named badly.", 1),
        ("Your parse is taking a long time. You can speed up your parsing", 1),
    ],
)
def test_only_hints_that_depend_on_time_are_not_compared(line: str, differences: int) -> None:
    changed = outcome("relay")
    changed.lines.insert(1, f"22:15:13  {line}")
    assert len(compared(changed).differences) == differences


def test_order_is_compared_only_on_request() -> None:
    turned = outcome("relay")
    turned.lines[1:] = turned.lines[:0:-1]
    assert not compared(turned).differences
    assert [each.where for each in compared(turned, order=True).differences] == ["order of lines"]


def test_common_start_of_long_texts_is_not_shown() -> None:
    changed = outcome("relay")
    changed.files["compiled/m.sql"] = "select '<during 1>' " + "x" * 5000
    shown = str(compared(changed).differences[0])
    assert "target/compiled/m.sql" in shown
    assert len(shown) < 2500


def test_time_outside_of_all_commands_is_kept() -> None:
    side = rules("plain")
    assert (
        side.text("at 2020-01-01 00:00:00 and 2023-11-14T22:13:23.5Z")
        == "at 2020-01-01 00:00:00 and <during 1>"
    )
    assert side.value(datetime(2023, 11, 14, 22, 13, 21)) == "<during 1>"
    assert side.value(datetime(2023, 11, 14, 22, 13, 45)) == "2023-11-14T22:13:45"
    assert side.text("2023-13-77 22:13:20") == "2023-13-77 22:13:20"


# -- inputs of unit tests --------------------------------------------------------------------------

INPUT = "compiled/p/models/tests.yml/m.sql"


def with_unit_tests(name: str, text: str, *, ran: bool = True, tests: int = 2) -> Outcome:
    """Outcome with unit tests of one YAML file that share the input `m`, whose file has `text`."""
    side = outcome(name)
    assert side.manifest is not None
    assert side.run_results is not None
    for number, given in enumerate(("ref('m')", "ref('p', 'm', v=2)", "this")[:tests]):
        unique_id = f"unit_test.p.{number}"
        side.manifest.setdefault("unit_tests", {})[unique_id] = {
            "original_file_path": "models/tests.yml", "model": "m", "given": [{"input": given}]
        }  # fmt: skip
        if ran:
            (model,) = [each for each in side.run_results["results"] if each["unique_id"] == "model.p.m"]
            code = f"with __dbt__cte__m as (\nselect {number}\n) select * from __dbt__cte__m"
            side.run_results["results"].append({**model, "unique_id": unique_id, "compiled_code": code})
    side.files[INPUT] = text
    return side


def differs(plain: Outcome, relay: Outcome) -> bool:
    seen = compare(plain, relay, (rules("plain"), rules("relay")), Allowance())
    assert {each.where for each in seen.differences} <= {f"target/{INPUT}"}
    return bool(seen.differences)


@pytest.mark.parametrize("ran", [True, False])
def test_shared_input_may_have_the_rows_of_any_unit_test(*, ran: bool) -> None:
    one, other = (
        with_unit_tests(*of, ran=ran, tests=3) for of in (("plain", "\nselect 0"), ("relay", "\nselect 2"))
    )
    assert not differs(one, other)


def test_input_with_rows_of_no_unit_test_is_a_difference() -> None:
    assert differs(with_unit_tests("plain", "select 0"), with_unit_tests("relay", "select 7"))
    assert differs(with_unit_tests("plain", "select 7"), with_unit_tests("relay", "select 0"))


def test_input_of_a_single_unit_test_is_compared() -> None:
    assert differs(
        with_unit_tests("plain", "select 0", tests=1), with_unit_tests("relay", "select 1", tests=1)
    )
