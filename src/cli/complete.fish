# Completions of job-monitor for fish, printed by: job-monitor completions fish
function __job_monitor
    set -l words (commandline -opc)
    set -l found (job-monitor complete $words[2..] (commandline -ct) 2>/dev/null)
    if test "$found[1]" = :files
        __fish_complete_path (commandline -ct)
    else
        string join -- \n $found
    end
end
complete -c job-monitor -f -k -a '(__job_monitor)'
