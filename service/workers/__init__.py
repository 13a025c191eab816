"""More than one core's worth of Python: workers talk HTTP and decode, one process computes for all of them.

    client ── worker ── slot in shared memory ──► engine process (batches, engine, top-k)
    client ── worker ── slot in shared memory ──►

Pixels and predictions lie in memory that all processes share (`memory`); a socket between each worker and the engine
process carries a few numbers for each image (`messages`). `supervisor` runs the engine process and keeps one `child`
for each worker; `worker` is what a worker process runs; `engine_side` and `worker_side` are the two sides of the
socket.
"""
