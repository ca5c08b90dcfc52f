#!/bin/bash
# The recipes' sandboxes around an agent, under the installed service: what goes in and out, what they keep from the
# agent, and that an agent is ended in them as it is without. Run as an ordinary user, in the directory with Makefile,
# job-monitor.service, the built program, and for each sandbox NAME its recipe, NAME.json.
set -euo pipefail

make -o build install PROGRAM=./program > /dev/null
export PATH="$HOME/.local/bin:$PATH"
settings=$HOME/.config/job-monitor/config.json
mkdir -p "${settings%/*}" ~/.claude ~/work ~/.config/containers
echo 'not for agents' > ~/secret
echo '{}' > ~/.claude.json
(umask 077 && printf 'ANTHROPIC_API_KEY=dummy\nCLAUDE_CODE_TMPDIR=/nowhere\n' > "${settings%/*}/.env")

install -m 755 agent.sh ~/.local/bin/claude

# An image that has nothing but this agent and a shell; no container of this machine can have a limit.
printf '[containers]\npids_limit = 0\n' > ~/.config/containers/containers.conf
image=$(mktemp -d)
chmod 755 "$image"
mkdir -p "$image/bin" "$image/tmp" "$image/your-image"
cp "$(command -v busybox)" ~/.local/bin/claude "$image/bin"
for program in sh awk cat id touch sleep setsid; do ln -s busybox "$image/bin/$program"; done
tar --directory="$image" --create . | podman import --quiet - your-image > /dev/null

failed() { echo "NOT KEPT: $sandbox: $1" >&2; shift; "$@" >&2 || true; journalctl --user --unit=job-monitor --no-pager -o cat --lines=60 >&2; exit 1; }
within() { local end=$((SECONDS + 30)); until "$@"; do ((SECONDS < end)) || return 1; sleep 0.1; done; }
submit() { { echo '```sh'; cat; echo '```'; } | job-monitor submit -d "$1" -; }
ended() { job-monitor wait --timeout 60s "$1" > /dev/null || [ $? = 4 ] || failed "$1 ends"; }
is() { grep -q "\"$2\": *$3" "jobs/results/$1.json" || failed "$1: $2 is $3" cat "jobs/results/$1.json"; }
# The agents' sleeps, which have a length of their own.
none_sleeps() { ! pgrep -f 'sleep 60[0-9]' > /dev/null; }

job-monitor register ~/work
cd ~/work
for sandbox in bwrap systemd-run podman; do
    find . -maxdepth 1 -type f -delete
    cp "$OLDPWD/$sandbox.json" "$settings"
    systemctl --user enable --now --quiet job-monitor
    # It hears the settings before it starts a job, but not in any order that we could see.
    systemctl --user restart job-monitor

    id=$(submit fine <<'JOB'
pwd > cwd
id -u > uid
echo "$HOME $ANTHROPIC_API_KEY" > given
[ ! -d /your-image ] || [ -d "$CLAUDE_CODE_TMPDIR" ]
cat ~/secret > seen 2> /dev/null || :
touch ~/outside 2> /dev/null || :
echo "$JOB_MONITOR_JOB_ID has counted all sheep"
JOB
)
    ended "$id"
    is "$id" status '"completed"'
    is "$id" summary "\"$id has counted all sheep\""
    [ "$(cat cwd)" = ~/work ] || failed "it runs in the project" cat cwd
    [ "$(cat uid)" = "$(id -u)" ] || failed "it runs as the same user" cat uid
    [ "$(cat given)" = "$HOME dummy" ] || failed "it is given home and key" cat given
    if [ "$sandbox" != systemd-run ]; then
        [ ! -s seen ] || failed "it sees nothing of the home"
        [ ! -e ~/outside ] || failed "it writes nothing elsewhere"
    fi
    rm -f ~/outside

    id=$(submit status <<< 'exit 7')
    ended "$id"
    is "$id" exit_code 7

    id=$(submit well <<'JOB'
trap 'touch told; sleep 1; touch over; exit 0' TERM
sleep 600 &
touch well
wait
JOB
)
    within [ -e well ] || failed "an agent starts"
    job-monitor cancel "$id" > /dev/null
    ended "$id"
    is "$id" status '"cancelled"'
    [ -e over ] || failed "an agent has its grace"
    within none_sleeps || failed "nothing is left" ps -ef

    id=$(submit meek <<< 'touch meek; exec sleep 603')
    within [ -e meek ] || failed "an agent starts"
    job-monitor cancel "$id" > /dev/null
    ended "$id"
    [ -z "$(podman ps --all --quiet)" ] || failed "SIGTERM ends an agent that takes no notice of it" podman ps --all

    id=$(submit stubborn <<'JOB'
trap '' TERM
setsid sleep 601 &
touch stubborn
while :; do sleep 602; done
JOB
)
    within [ -e stubborn ] || failed "an agent starts"
    job-monitor cancel "$id" > /dev/null
    ended "$id"
    is "$id" status '"cancelled"'
    within none_sleeps || failed "nothing is left of one that hears nothing" ps -ef
    # What docs/sandboxes.md says of such a container.
    podman rm --all --force --time=0 > /dev/null
    [ -z "$(podman ps --all --quiet)" ] || failed "the record of a container can be removed" podman ps --all
    echo "kept: $sandbox"
done
