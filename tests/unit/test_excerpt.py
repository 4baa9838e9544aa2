from __future__ import annotations

import pytest

from workers.contract.errors.sql_excerpt import Quoted, excerpt, locate, quoted

SQL = """with payroll as (
    select employee_id, salry
    from staff
)

select *
from payroll
order by 1
limit 5"""


def test_a_quoted_place_has_line_text_and_caret() -> None:
    place = quoted("Binder Error: nmae\n\n  LINE 12:     nmae,\n               ^\n  compiled code at x")
    assert place == Quoted(12, "    nmae,", 4)


def test_a_place_without_a_caret() -> None:
    assert quoted("LINE 3: select 1") == Quoted(3, "select 1", None)
    assert quoted("line 3") is None


def test_the_line_is_found_by_its_text_wherever_the_wrapper_has_moved_it() -> None:
    assert locate(SQL, Quoted(14, "    select employee_id, salry", 24)) == (2, 24)
    assert locate(SQL, Quoted(99, "        select employee_id, salry", 28)) == (2, 24)


def test_either_end_of_the_quote_may_be_cut() -> None:
    assert locate(SQL, Quoted(9, "...employee_id, salry", 16)) == (2, 24)
    assert locate(SQL, Quoted(9, "    select employee_id, sal...", 24)) == (2, 24)


def test_line_is_found_though_dbts_wrapper_shares_it() -> None:
    sql = "select nmae from staff"
    assert locate(sql, Quoted(1, f"create view v as ({sql}", 25)) == (1, 7)
    assert locate(sql, Quoted(1, f"{sql}) as dbt_sbq", 7)) == (1, 7)


def test_of_equal_lines_it_is_the_first() -> None:
    assert locate("select a\nfrom t\nselect a", Quoted(9, "select a", 7)) == (1, 7)


def test_line_of_other_sql_is_not_found() -> None:
    assert locate(SQL, Quoted(3, "insert into audit select 1", 12)) == (None, None)
    assert locate(SQL, Quoted(3, "  ", 0)) == (None, None)
    assert locate("", Quoted(3, "select 1", 0)) == (None, None)


def test_line_is_found_by_a_name_that_occurs_once() -> None:
    assert locate(SQL, None, "SALRY") == (2, 24)
    assert locate(SQL, None, "payroll") == (None, None)  # occurs twice
    assert locate(SQL, None, "employee") == (None, None)  # only part of a word
    assert locate(SQL, None) == (None, None)


def test_the_caret_may_be_missing_or_beyond_the_line() -> None:
    assert locate(SQL, Quoted(9, "from payroll", None)) == (7, None)
    assert locate(SQL, Quoted(9, "from payroll", 40)) == (7, None)


def test_an_excerpt_shows_three_lines_on_each_side_and_marks_one() -> None:
    assert excerpt(SQL, 5) == (
        "  2 |     select employee_id, salry\n"
        "  3 |     from staff\n"
        "  4 | )\n"
        "> 5 |\n"
        "  6 | select *\n"
        "  7 | from payroll\n"
        "  8 | order by 1"
    )


def test_an_excerpt_points_at_the_column() -> None:
    assert excerpt(SQL, 2, 24).splitlines()[1:3] == [
        "> 2 |     select employee_id, salry",
        "    |                         ^",
    ]


def test_line_numbers_line_up() -> None:
    sql = "\n".join(f"line {number}" for number in range(1, 13))
    assert excerpt(sql, 9).splitlines()[3:] == [
        ">  9 | line 9",
        "  10 | line 10",
        "  11 | line 11",
        "  12 | line 12",
    ]


def test_a_very_long_line_is_cut() -> None:
    shown = excerpt("x" * 500, 1, 400)
    assert shown == "> 1 | " + "x" * 199 + "…"


@pytest.mark.parametrize("line", [0, 10, -1])
def test_excerpt_of_missing_line_is_an_error(line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line} of 9"):
        excerpt(SQL, line)
