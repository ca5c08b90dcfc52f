#!/bin/sh
# An agent that needs no account: it carries out the document's shell block.
awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' > "$JOB_MONITOR_JOB_ID.todo"
exec sh -eu "$JOB_MONITOR_JOB_ID.todo"
