"""What dbt-relay costs, beside plain dbt: ``python -m benchmarks`` measures, `benchmarks/RESULTS.md` says what it found.

A benchmark is a module with ``bench(options) -> Outcome`` and a line in `benchmarks.__main__.BENCHMARKS`; what all of
them share is in `benchmarks.measure`. Programs that prove something else than speed have commands of their own:
``benchmarks.ledger``, ``benchmarks.recovery``, ``benchmarks.soak``.
"""
