#!/bin/sh
# `make demo`: a job from document to result, in a throw-away home directory. It needs no account: the agent is a
# script that carries out the shell block in the document. Everything is gone afterwards.
#
#     sh tests/demo.sh PROGRAM
set -eu

# Nothing here takes longer than a second or two; whatever goes wrong, this ends it.
wait_max=30

program=$(realpath "$1")
base=$(mktemp -d "${TMPDIR:-/tmp}/job-monitor-demo.XXXXXX")
daemon=

# Runs also after an interrupt. The daemon ends its agents itself; only what was started here is signalled.
clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    [ "$status" = 0 ] || { echo "the demo failed; the daemon said:"; cat "$base/daemon.log"; } >&2
    rm -rf "$base"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The person's own settings, registry and service stay out of it.
home=$base/home
project=$home/website
job_monitor() { env -i HOME="$home" PATH="$PATH" LANG="${LANG-C.UTF-8}" TERM="${TERM-dumb}" "$program" "$@"; }
# Says what a person would type, then does it.
show() {
    printf '\n$ job-monitor'
    printf ' %s' "$@"
    echo
    job_monitor "$@"
}

mkdir -p "$project" "$home/.config/job-monitor"
cat > "$base/agent" <<'AGENT'
#!/bin/sh
# Reads the job on standard input, runs its block ```sh ... ``` and answers with what that prints.
awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' > "$0.commands"
exec sh -eu "$0.commands"
AGENT
chmod 755 "$base/agent"
cat > "$home/.config/job-monitor/config.json" <<JSON
{ "agent": "demo", "agents": { "demo": { "command": ["$base/agent"], "protocol": "plain" } } }
JSON
cat > "$base/greeting.md" <<'JOB'
# Greet the visitors

Write a page that greets visitors, and say how long it is.

```sh
sleep 1
echo '<h1>Welcome!</h1>' > index.html
echo "index.html is there, $(wc -c < index.html) bytes long."
```
JOB

# Not through the function: a function in the background is a shell of its own, and `$!` would be that shell.
env -i HOME="$home" PATH="$PATH" "$program" daemon 2> "$base/daemon.log" &
daemon=$!
# So that no answer says that it is not running.
deadline=$(($(date +%s) + wait_max))
while job_monitor queue 2>&1 | grep -q 'not running'; do
    [ "$(date +%s)" -lt "$deadline" ] || { echo "the daemon did not start within $wait_max s" >&2; exit 1; }
    sleep 0.05
done

echo "The job, a Markdown file:"
echo
sed 's/^/    /' "$base/greeting.md"
show register "$project"
cd "$project"
printf '\n$ job-monitor submit -d greeting greeting.md\n'
job=$(job_monitor submit -d greeting "$base/greeting.md")
echo "$job"

result=$project/jobs/results/$job.json
# Seen at work before it is seen done. The view is what the daemon wrote last.
deadline=$(($(date +%s) + wait_max))
until job_monitor queue | grep -q "^Processing: $job" || [ -e "$result" ]; do
    [ "$(date +%s)" -lt "$deadline" ] || { echo "the job did not start within $wait_max s" >&2; exit 1; }
    sleep 0.05
done
show queue
show wait --timeout "${wait_max}s" "$job"
show "$job"
printf '\nThe result, %s:\n' "${result#"$home/"}"
head -n 11 "$result" | sed 's/^/    /'
echo "      ... and $(($(wc -l < "$result") - 11)) lines more"
printf '\nThe file that the agent wrote, %s: %s\n' "website/index.html" "$(cat index.html)"
