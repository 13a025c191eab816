"""More than one core's worth of Python: workers talk HTTP and decode, one process computes for all of them.

    client ── worker ── slot in shared memory ──► engine's process (batches, engine, top-k)
    client ── worker ── slot in shared memory ──►

Pixels and predictions lie in memory that all processes see (`memory`); what is sent over the socket between a worker
and the engine's process (`messages`) is a few numbers for an image. `main` runs the engine's process and starts the
workers; `worker` is what such a process runs; `link` and `remote` are the two ends of the socket.
"""
