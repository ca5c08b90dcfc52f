#!/bin/bash
# The installed service, from `make install` to `make uninstall`, on a machine with a real systemd. Run as that
# machine's root, on behalf of the ordinary user who installs and uses the program:
#
#     trial.sh USER DIR
#
# DIR, in the user's home, holds Makefile, job-monitor.service and the built program; nothing is built here.
# Each promise is one line of output; the first that is not kept ends the trial with what the machine says about it.
set -u
user=$1 source=$2
uid=$(id -u "$user")
home=$(getent passwd "$user" | cut -d: -f6)

# Without PAM, so that nothing of what happens to the user's sessions and manager happens to this script.
as_user() {
    runuser -u "$user" -- env -i -C "$home" HOME="$home" USER="$user" LOGNAME="$user" LANG=C.UTF-8 SHELL=/bin/bash \
        PATH="$home/.local/bin:/usr/local/bin:/usr/bin:/bin" XDG_RUNTIME_DIR="/run/user/$uid" \
        DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$uid/bus" "$@"
}
sc() { as_user systemctl --user "$@"; }
property() { sc show job-monitor --property="$1" --value; }
journal() { as_user journalctl --user --unit=job-monitor --output=cat --no-pager "$@"; }

# The longest that anything here may take; RestartSec (10 s) is the longest wait that is meant.
bound=30
within() {
    local end=$((SECONDS + bound))
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.05
    done
}
promise() {
    local sentence=$1
    shift
    if within "$@"; then
        echo "kept: $sentence"
        return
    fi
    echo "NOT KEPT: $sentence"
    echo "  asked: $(declare -f "$1" 2>/dev/null | tail -n +3 | head -n -1 || true) [$*]"
    sc status job-monitor --no-pager --full --lines=0
    echo "--- journal"; journal --lines=80
    echo "--- make"; tail -n 30 /tmp/make.out
    echo "--- projects"; find "$home"/plain "$home"/again -path '*/jobs/*' -type f -printf '%p %s\n' 2>/dev/null
    exit 1
}

# A job is a document with a shell block; the agent carries it out in the project's directory.
submit() { # PROJECT ID, the block on standard input
    local items=$home/$1/jobs/items
    { echo "# $2"; echo '```sh'; cat; echo '```'; } > "/tmp/$2.md"
    chown "$user:" "/tmp/$2.md"; chmod 644 "/tmp/$2.md"
    # Written beside the spool, then renamed in: whole at once, as any writer should do it.
    as_user sh -c 'cp "$1" "$2/.$3.tmp" && mv "$2/.$3.tmp" "$2/$3.md"' - "/tmp/$2.md" "$items" "$2"
}
result() { cat "$home/$1/jobs/results/$2.json" 2>/dev/null; }
has_result() { result "$1" "$2" | grep -Eq "\"status\": *\"$3\""; }
has_kind() { result "$1" "$2" | grep -Eq "\"error_kind\": *\"$3\""; }
exists() { [ -s "$1" ]; }
lines_in() { [ "$(wc -l < "$1")" = "$2" ]; }
says() { journal "${@:2}" | grep -Fq -- "$1"; }
status_says() { property StatusText | grep -Eq -- "$1"; }
is_active() { [ "$(property ActiveState)" = active ]; }
# The marks of a test's processes are the odd numbers of seconds that they sleep.
no_process() { ! pgrep -U "$uid" -f "^sleep $1\$" > /dev/null; }
a_process() { ! no_process "$1"; }
# The number is read once, and first: a daemon that was just killed counts as active for a moment.
is_new_daemon() {
    local now
    now=$(property MainPID)
    [ "$now" -gt 1 ] && [ "$now" != "$1" ] && is_active
}
# Sets `daemon`, for is_new_daemon. The number is looked at first: 0 would be this script's own group.
crash() {
    daemon=$(property MainPID)
    [ "$daemon" -gt 1 ] && kill -KILL "$daemon"
}
is_inactive() { [ "$(property ActiveState)" = inactive ]; }
nothing() { [ -z "$("$@" 2>&1)" ]; }
not() { ! "$@"; }
files() { as_user find "$home" -path "$home/job-monitor" -prune -o ! -type d -printf '%P\n' | sort; }
made() { grep -Eq -- "$1" /tmp/make.out; }
run_make() { as_user make -C "$source" -o build PROGRAM="$source/program" "$@" > /tmp/make.out 2>&1; }

# ---- Installing over what the predecessor left
as_user sh -c 'mkdir -p ~/.local/bin ~/.config/systemd/user
    printf "#!/usr/bin/python3\nprint(1)\n" > ~/.local/bin/job-monitor
    printf "[Service]\nExecStart=/opt/job-monitor/.venv/bin/python monitor_daemon.py\n" > ~/.config/systemd/user/job-monitor.service
    printf "[Service]\nExecStart=/opt/task-monitor\n" > ~/.config/systemd/user/task-monitor.service'
run_make install
promise "an old script in the program's place is named and kept" made 'bin/job-monitor.old'
promise "an old unit is named, with what it ran, and kept" made 'monitor_daemon.py.*job-monitor.service.old'
promise "the first version's unit is named" made 'task-monitor.service$'
promise "the next steps are told" made 'systemctl --user enable --now job-monitor'
promise "lingering is not asked for where it is on" not made enable-linger
promise "the old program is kept whole" grep -q python3 "$home/.local/bin/job-monitor.old"
as_user find "$home/.local/bin" "$home/.config/systemd" -name '*.old' -delete
as_user rm "$home/.config/systemd/user/task-monitor.service"
run_make uninstall
files > /tmp/files.before
run_make install
promise "a first installation replaces nothing" not made '\.old|older'
unit=$home/.config/systemd/user/job-monitor.service
promise "the unit is verified without a word" nothing as_user systemd-analyze --user verify "$unit"
promise "the manual page is found by man" as_user sh -c 'man -w job-monitor | grep -q "$HOME/.local/share"'

# ---- The first start: no project, then one by hand
sc daemon-reload
sc enable --now --quiet job-monitor
promise "the service starts with no project registered" is_active
promise "it says so" says 'no project is registered'
promise "and systemctl status does" status_says 'no project is registered'
promise "ready was told by the daemon, not assumed" test "$(property Type)" = notify
for pair in Restart=always RestartUSec=10s StartLimitIntervalUSec=0 KillMode=mixed Delegate=yes OOMPolicy=continue; do
    promise "in force: $pair" test "$(property "${pair%%=*}")" = "${pair#*=}"
done
cat > /tmp/config.json <<'JSON'
{ "agent": "sh", "grace": "5s", "agents": { "sh": { "command": ["agent"], "protocol": "plain" } } }
JSON
# In ~/.local/bin, which only the unit's PATH has.
install -D -o "$user" -m 755 "$source/agent.sh" "$home/.local/bin/agent"
as_user mkdir -p "$home/.config/job-monitor" "$home/plain" "$home/again"
as_user install -m 600 /tmp/config.json "$home/.config/job-monitor/config.json"
as_user job-monitor register "$home/plain" > /tmp/register.out 2>&1
promise "register creates the spool" test -d "$home/plain/jobs/items"
promise "the running daemon follows" says "Observer started for 'plain'"
as_user job-monitor register "$home/again" >> /tmp/register.out 2>&1
# This one's interrupted jobs start afresh; a person edits the registry.
as_user sed -i 's|"path": *"'"$home"'/again"|&, "on_interrupt": "rerun"|' "$home/.config/job-monitor/registered.json"
promise "the second project is watched too" says "Observer started for 'again'"

# ---- A job, and what the service says of it
submit plain job-20260101-000001-long <<'SH'
echo started > long.started
while [ ! -e long.go ]; do sleep 0.1; done
echo "the answer"
SH
promise "a document starts a job, and the unit's PATH finds its agent" exists "$home/plain/long.started"
promise "systemctl status tells what runs" status_says '1 running, 0 waiting'
submit plain job-20260101-000002-failing <<'SH'
exit 7
SH
promise "and what waits" status_says '1 running, 1 waiting'
as_user touch "$home/plain/long.go"
promise "the job completes" has_result plain job-20260101-000001-long completed
promise "the next one fails, with its exit status" has_kind plain job-20260101-000002-failing exit_code
promise "systemctl status tells that nothing runs" status_says '0 running, 0 waiting'
promise "job-monitor ID shows the result" as_user sh -c 'job-monitor -p plain job-20260101-000001-long | grep -q "the answer"'
promise "the journal has the start with priority info" says 'Starting job: job-20260101-000001-long.md' --priority=6..6
promise "and the end" says 'Job completed: job-20260101-000001-long.md - status=completed' --priority=6..6
promise "a failed job stands out in the journal" says 'Job failed: job-20260101-000002-failing.md' --priority=0..4
stamped() { journal | grep -Eq '^(<[0-9]>|[0-9]{4}-[0-9]{2})'; }
promise "no line has a time stamp or a priority of its own" not stamped

# ---- Stopping during a job, and starting again
interrupted='echo run >> runs
[ "$(wc -l < runs)" -lt 2 ] || { echo "second time"; exit 0; }
trap "echo term > got-term; sleep 1; echo over > had-grace; exit 0" TERM
setsid sleep 42'
interrupt_in() { # ID, and what its processes sleep; in both projects
    for project in plain again; do
        as_user rm -f "$home/$project/runs"
        submit $project "$1" <<< "$interrupted${2}1 & sleep 42${2}2 & wait"
    done
    for project in plain again; do
        promise "[$project] a long job runs" exists "$home/$project/runs"
    done
}
interrupt_in job-20260101-000003-stopped 0
promise "with a process in a session of its own" a_process 4201
sc stop job-monitor
promise "stop ends the service" is_inactive
promise "with a clean exit" test "$(property Result)" = success
for project in plain again; do
    promise "[$project] the agent got SIGTERM" exists "$home/$project/got-term"
    promise "[$project] and its grace" exists "$home/$project/had-grace"
    promise "[$project] the job has its claim, and no result" test -e "$home/$project/jobs/state/job-20260101-000003-stopped.claim" -a ! -e "$home/$project/jobs/results/job-20260101-000003-stopped.json"
done
promise "no process is left" no_process '42..'
sc start job-monitor
promise "start brings it back" is_active
promise "on_interrupt: a plain agent cannot resume, so the job has failed" has_kind plain job-20260101-000003-stopped interrupted
promise "on_interrupt rerun: it ran again and completed" has_result again job-20260101-000003-stopped completed
promise "one start where it failed" lines_in "$home/plain/runs" 1
promise "two where it ran again" lines_in "$home/again/runs" 2

# ---- kill -9 of the daemon
interrupt_in job-20260101-000004-killed 1
crash
promise "killed outright, the daemon is started again" is_new_daemon "$daemon"
promise "no process of its agents survived" no_process '42..'
promise "the job of the one project has failed as interrupted" has_kind plain job-20260101-000004-killed interrupted
promise "that of the other ran again" has_result again job-20260101-000004-killed completed
promise "no start too many" lines_in "$home/plain/runs" 1
promise "nor in the other project" lines_in "$home/again/runs" 2

# ---- Upgrade under a running job
submit plain job-20260101-000005-upgraded <<'SH'
echo started > upgraded.started
while [ ! -e upgraded.go ]; do sleep 0.1; done
echo "still here"
SH
promise "a job runs during the upgrade" exists "$home/plain/upgraded.started"
run_make install
promise "installing over a running daemon tells to restart it" made 'systemctl --user restart job-monitor'
promise "the daemon is not disturbed" is_active
as_user touch "$home/plain/upgraded.go"
promise "nor is its job" has_result plain job-20260101-000005-upgraded completed
daemon=$(property MainPID)
as_user sh -c 'systemctl --user daemon-reload; job-monitor restart' > /tmp/restart.out 2>&1
promise "job-monitor restart starts the new program" is_new_daemon "$daemon"
promise "which is the file installed now" as_user sh -c '[ "$(readlink /proc/$1/exe)" -ef ~/.local/bin/job-monitor ]' - "$(property MainPID)"

# ---- Crashes in a row
as_user mkdir -p "$home/.config/systemd/user/job-monitor.service.d"
as_user sh -c 'printf "[Service]\nRestartSec=100ms\n" > ~/.config/systemd/user/job-monitor.service.d/test.conf'
sc daemon-reload
for n in 1 2 3 4 5 6 7 8 9 10; do
    crash
    within is_new_daemon "$daemon" || break
done
promise "ten crashes in a row do not end the unit" test "$(property NRestarts)" -ge 10
promise "it serves its projects" is_active
as_user rm -r "$home/.config/systemd/user/job-monitor.service.d"
sc daemon-reload

# ---- A broken registry at the start
registry=$home/.config/job-monitor/registered.json
sc stop job-monitor
as_user cp "$registry" "$registry.good"
as_user sh -c 'echo "{ \"projects\": " > "$1"' - "$registry"
sc start job-monitor
promise "with a broken registry the service stays up" is_active
promise "it says which file is broken" says 'registered.json' --priority=0..4
promise "and that nothing is served until it is mended" says 'meanwhile no job is started'
promise "systemctl status says so too" status_says 'the registry .* is broken'
submit plain job-20260101-000006-mended <<'SH'
echo "back"
SH
as_user mv "$registry.good" "$registry"
promise "once it is mended, jobs go on without a restart" has_result plain job-20260101-000006-mended completed

# ---- The machine boots again
as_user rm -f "$home/again/runs"
submit again job-20260101-000007-rebooted <<< "${interrupted}21 & sleep 4222 & wait"
promise "a job runs at shutdown" exists "$home/again/runs"
systemctl restart "user@$uid.service"
promise "after a restart of the user's manager the service is back by itself" is_active
promise "and its jobs go on" has_result again job-20260101-000007-rebooted completed
promise "no process of before is left" no_process '42..'

# ---- Uninstalling
run_make uninstall
promise "uninstalling tells that the service is still enabled" made 'systemctl --user disable --now job-monitor'
sc disable --now --quiet job-monitor
sc daemon-reload
promise "what it tells to do ends the service" is_inactive
as_user rm -r "$home/.config/job-monitor" "$home/.local/state/job-monitor" "$home/.local/bin/agent" "$home/plain" "$home/again"
files > /tmp/files.after
promise "nothing of the installation is left" diff /tmp/files.before /tmp/files.after
echo "every promise was kept, in $SECONDS s"
