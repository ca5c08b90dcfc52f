#!/bin/bash
# An agent that the kernel kills for its memory, under the installed service with a limit that is enforced: its job
# has failed, and nothing else has. Run as an ordinary user, in the directory with Makefile, job-monitor.service and the
# built program.
set -euxo pipefail

make -o build install PROGRAM=./program
export PATH="$HOME/.local/bin:$PATH"
mkdir -p ~/.config/job-monitor ~/.config/systemd/user/job-monitor.service.d ~/greedy ~/modest
printf '[Service]\nMemoryMax=200M\nMemorySwapMax=0\n' > ~/.config/systemd/user/job-monitor.service.d/test.conf
install -m 755 agent.sh ~/.local/bin/agent
echo '{ "agent": "sh", "agents": { "sh": { "command": ["agent"] } } }' > ~/.config/job-monitor/config.json
systemctl --user daemon-reload
systemctl --user enable --now job-monitor
job-monitor register ~/greedy
job-monitor register ~/modest
daemon=$(systemctl --user show job-monitor --property=MainPID --value)

submit() { printf '```sh\n%s\n```\n' "$2" | job-monitor -p "$1" submit -d "$1" -; }
waits='until [ -e go ]; do sleep 0.1; done; echo unharmed'
modest=$(submit modest "$waits")
# A line without end, which tail has to keep.
greedy=$(submit greedy 'tail /dev/zero')
job-monitor wait --timeout 120s "$greedy" || [ $? = 4 ]
job-monitor "$greedy" | tee shown
grep '^Status: failed' shown
journalctl --user --unit job-monitor --no-pager -o cat | grep -i 'oom'
# The other agent was running all the time.
touch ~/modest/go
job-monitor wait --timeout 60s "$modest"
[ "$(systemctl --user show job-monitor --property=MainPID --value)" = "$daemon" ]
[ "$(systemctl --user show job-monitor --property=NRestarts --value)" = 0 ]

# The recipe's limit for one agent, only lower, and no limit for the service.
rm ~/.config/systemd/user/job-monitor.service.d/test.conf
sed 's/MemoryMax=8G/MemoryMax=200M/' systemd-run.json | tee ~/.config/job-monitor/config.json | grep MemoryMax=200M
mv ~/.local/bin/agent ~/.local/bin/claude
systemctl --user daemon-reload
systemctl --user restart job-monitor
daemon=$(systemctl --user show job-monitor --property=MainPID --value)
rm ~/modest/go
modest=$(submit modest "$waits")
greedy=$(submit greedy 'head -c 600M /dev/zero | tail -n 1 > /dev/null || sleep 300')
job-monitor wait --timeout 120s "$greedy" || [ $? = 4 ]
job-monitor "$greedy" | tee shown
# The kernel has killed the tool, and systemd told the rest to end.
grep '^Error:.*SIGTERM' shown
touch ~/modest/go
job-monitor wait --timeout 60s "$modest"
[ "$(systemctl --user show job-monitor --property=MainPID --value)" = "$daemon" ]
