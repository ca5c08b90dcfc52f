# Completions of job-monitor for bash, printed by: job-monitor completions bash
_job_monitor() {
    mapfile -t COMPREPLY < <(job-monitor complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${COMPREPLY[0]} == :files ]]; then
        COMPREPLY=()
        compopt -o default
    fi
}
complete -o nosort -F _job_monitor job-monitor
