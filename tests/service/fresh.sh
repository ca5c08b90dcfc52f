#!/bin/bash
# What a stranger does on a machine with make, a linker and a Rust toolchain, in a fresh checkout (the current
# directory): the README's own commands for the demo and the installation, then a project, a document, its result.
set -euxo pipefail

# The commands of a section. A minimal machine has no polkit, so nobody but root may enable lingering there; it is on.
commands=$(awk '/^## / { found = ($0 == "## Try it") } found && /^```sh$/ { inside = 1; next }
    /^```$/ { inside = 0 } inside' README.md)
grep -q '^make demo' <<< "$commands"
grep -q '^make install' <<< "$commands"
eval "${commands/loginctl enable-linger/loginctl enable-linger || true}"
export PATH="$HOME/.local/bin:$PATH"

# An agent that needs no account, in place of claude.
mkdir -p ~/.config/job-monitor ~/website
install -m 755 tests/service/agent.sh ~/.local/bin/agent
echo '{ "agent": "sh", "agents": { "sh": { "command": ["agent"] } } }' > ~/.config/job-monitor/config.json

job-monitor register ~/website
cat > ~/website/jobs/items/job-20260101-000000-hello.md <<'JOB'
# Say hello
```sh
echo hello > hello.txt
cat hello.txt
```
JOB
job-monitor wait --timeout 30s job-20260101-000000-hello
job-monitor queue
job-monitor status
job-monitor job-20260101-000000-hello | tee shown
grep -q '^Status: completed' shown
grep -q '^Summary: hello' shown
[ "$(cat ~/website/hello.txt)" = hello ]
job-monitor list
systemctl --user status job-monitor --no-pager | grep 'Status: "0 running, 0 waiting'
journalctl --user --unit job-monitor --no-pager -o cat | grep 'Job completed: job-20260101-000000-hello.md'
