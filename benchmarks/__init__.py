"""Benchmarks of dbt-relay and plain dbt: ``python -m benchmarks`` measures, `benchmarks/RESULTS.md` has the results.

A benchmark is a module with ``bench(options) -> Outcome`` and an entry in `benchmarks.__main__.BENCHMARKS`; shared code
is in `benchmarks.measure`. Programs that measure something else than speed have their own commands:
``benchmarks.ledger``, ``benchmarks.recovery``, ``benchmarks.soak``, ``benchmarks.starvation``.
"""
