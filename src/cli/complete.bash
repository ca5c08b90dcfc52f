# Completions of job-monitor for bash, printed by: job-monitor completions bash
_job_monitor() {
    mapfile -t COMPREPLY < <(job-monitor complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case ${COMP_WORDS[COMP_CWORD]}${COMPREPLY[0]} in
        (*:files) COMPREPLY=(); compopt -o default ;;
        ([\'\"]*) ;; # The person quotes.
        (?*) ((${#COMPREPLY[@]})) && mapfile -t COMPREPLY < <(printf '%q\n' "${COMPREPLY[@]}") ;;
    esac
}
complete -o nosort -F _job_monitor job-monitor
