#compdef job-monitor
# Completions of job-monitor for zsh, printed by: job-monitor completions zsh
_job-monitor() {
    local -a found
    found=("${(@f)$(job-monitor complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    case $found[1] in
        (:files) _files ;;
        (?*) compadd -V job-monitor -a found ;;
    esac
}
if [[ $funcstack[1] == _job-monitor ]]; then _job-monitor "$@"; else compdef _job-monitor job-monitor; fi
