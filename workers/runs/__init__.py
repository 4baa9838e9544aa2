"""What a worker does with a step of a run.

`step.perform` is the way of every step: claim, prepare, execute, decide, record, hand out. `plan`, `start`, `node`,
`close` and `command` say what each kind of step executes. `decision` decides what follows from it, and `recording`
writes that into the ledger. `session` executes the steps of a run that needs one process for its warehouse.
"""
