"""Executes the steps of a run in a worker.

`step.perform` handles every step: it claims, prepares, executes, decides and records. `plan`, `start`, `node`, `close`
and `command` execute the kinds of steps. `decision` decides what follows from the outcome, and `recording` writes that
into the ledger. `session` executes the steps of a run that needs one process for its warehouse.
"""
