//! Completion scripts. Words and options come from the table; ids and names of projects from
//! the program's own plain output at the moment of asking, so nothing can be out of date.

use super::help::sentence;
use super::table::SHOW;
use super::{COMMANDS, CommandSpec, Completes, GLOBALS, Operand, OptionSpec, Shell, Value};

/// Prints the ids in what `queue` and `status` print: the second word of a line, as in
/// `  1. job-….md`, `Processing: job-….md` and `  ✓ job-…: completed`.
const AWK_IDS: &str =
    r#"awk '$2 ~ /^(job|task)-/ { sub(/:$/, "", $2); sub(/\.md$/, "", $2); print $2 }'"#;

/// Prints the names in what `list` prints: the lines that stand before a line `Path:`.
const AWK_NAMES: &str = "awk '/^ *Path:/ { print name } { name = $0 }'";

/// The completion script for a shell.
pub fn completions(shell: Shell) -> String {
    let script = match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    };
    script
        .replace("@IDS@", AWK_IDS)
        .replace("@NAMES@", AWK_NAMES)
}

/// What is always there in bash. Nothing goes through `compgen -W`: it would expand a
/// project's name as if it were typed, `$(…)` included.
const BASH: &str = r#"# Completions of job-monitor for bash, printed by: job-monitor completions bash

# Leaves in $text what the shell would make of a word as it was typed, nothing expanded.
_job_monitor_read() {
    local typed=$1 quote="" letter i
    text=""
    for ((i = 0; i < ${#typed}; i++)); do
        letter=${typed:i:1}
        case $quote$letter in
            \' | \") quote=$letter ;;
            \'\' | \"\") quote="" ;;
            \\ | \"\\) text+=${typed:$((++i)):1} ;;
            *) text+=$letter ;;
        esac
    done
}

# Offers the words that go on from $cur, quoted as it was begun.
_job_monitor_words() {
    local word quoted text special
    _job_monitor_read "$cur"
    for word; do
        [[ $word == "$text"* ]] || continue
        case $cur in
            \'*) quoted=${word//\'/"'\\''"} ;;
            \"*)
                quoted=$word
                for special in \\ \" \$ \`; do
                    quoted=${quoted//"$special"/"\\$special"}
                done
                ;;
            *) printf -v quoted %q "$word" ;;
        esac
        COMPREPLY+=("$quoted")
    done
}

_job_monitor_ids() {
    local view ids
    for view; do
        mapfile -t ids < <(job-monitor ${project:+-p "$project"} "$view" 2>/dev/null | @IDS@)
        _job_monitor_words "${ids[@]}"
    done
}

_job_monitor_projects() {
    local names
    mapfile -t names < <(job-monitor list 2>/dev/null | @NAMES@)
    _job_monitor_words "${names[@]}"
}

_job_monitor() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local command="" project="" text i
    COMPREPLY=()
    # Readline makes three words of --project=x.
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            -p | --project)
                [[ ${COMP_WORDS[i+1]} == "=" ]] && ((i++))
                _job_monitor_read "${COMP_WORDS[++i]}"
                project=$text
                ;;
            -p*)
                _job_monitor_read "${COMP_WORDS[i]#-p}"
                project=$text
                ;;
            -*) ;;
            *) command=${command:-${COMP_WORDS[i]}} ;;
        esac
    done
    case $command in job-* | task-*) command=ID ;; esac
"#;

fn bash() -> String {
    let offer = |value: Value| match value.completes {
        Completes::Nothing => ":".to_owned(),
        Completes::OpenJobs => "_job_monitor_ids queue".to_owned(),
        Completes::Jobs => "_job_monitor_ids queue status".to_owned(),
        Completes::Projects => "_job_monitor_projects".to_owned(),
        Completes::Commands => format!("_job_monitor_words {}", command_names()),
        Completes::Directories => "compopt -o dirnames".to_owned(),
        Completes::Files => "compopt -o default".to_owned(),
        Completes::Words(words) => format!("_job_monitor_words {}", words.join(" ")),
    };
    let mut script = String::from(BASH);
    script += "    case $command:$prev in\n";
    let own = COMMANDS
        .iter()
        .flat_map(|spec| spec.options.iter().map(|option| (spec.name, option)));
    for (command, option) in own.chain(GLOBALS.iter().map(|option| ("*", option))) {
        if let Some(value) = option.value {
            let short = option.short.map(|letter| format!("{command}:-{letter} | "));
            let short = short.unwrap_or_default();
            script += &format!(
                "        {short}{command}:--{}) {}; return ;;\n",
                option.long,
                offer(value)
            );
        }
    }
    script += "    esac\n    case $command:$cur in\n";
    for (name, spec, operand) in first_words() {
        let options: Vec<_> = spec.offered_options().map(|option| option.long).collect();
        let options = options.join(" --");
        script += &format!("        {name}:-*) _job_monitor_words --{options} ;;\n");
        if let Some(value) = operand.value() {
            script += &format!("        {name}:*) {} ;;\n", offer(value));
        }
    }
    let globals: Vec<_> = GLOBALS.iter().map(|option| option.long).collect();
    script += &format!(
        "        :-*) _job_monitor_words --{} ;;\n",
        globals.join(" --")
    );
    script += "        :job-* | :task-*) _job_monitor_ids queue status ;;\n";
    script += &format!("        :*) _job_monitor_words {} ;;\n", command_names());
    script + "    esac\n}\n\ncomplete -o nosort -F _job_monitor job-monitor\n"
}

/// What is always there in zsh. The last lines serve a file on `fpath` as well as `source`.
const ZSH: &str = r#"#compdef job-monitor
# Completions of job-monitor for zsh, printed by: job-monitor completions zsh

_job_monitor_ids() {
    local view
    local -a ids
    for view; do
        ids+=(${(f)"$(job-monitor $project $view 2>/dev/null | @IDS@)"})
    done
    _wanted -V jobs expl job compadd -a ids
}

_job_monitor_projects() {
    local -a names
    names=(${(f)"$(job-monitor list 2>/dev/null | @NAMES@)"})
    _wanted projects expl project compadd -a names
}

_job_monitor_commands() {
    local -a commands=(
@COMMANDS@    )
    _describe -V -t commands command commands
}

_job_monitor_first() {
    case $PREFIX in
        job-*|task-*) _job_monitor_ids queue status ;;
        *) _job_monitor_commands ;;
    esac
}

_job-monitor() {
    local curcontext=$curcontext state line expl i command
    local -a project
    typeset -A opt_args
    for ((i = 2; i < CURRENT; i++)); do
        case $words[i] in
            -p|--project) project=(-p "${(Q)words[i+1]}") ;;
            --project=*) project=(-p "${(Q)words[i]#*=}") ;;
            -p?*) project=(-p "${(Q)words[i]#-p}") ;;
        esac
    done
    _arguments -C@GLOBALS@ \
        '(-): :_job_monitor_first' \
        '(-)*:: :->rest' && return
    [[ $state == rest ]] || return
    command=$words[1]
    case $command in job-*|task-*) command=ID ;; esac
    case $command in
@CASES@    esac
}

if [[ $funcstack[1] == _job-monitor ]]; then
    _job-monitor "$@"
else
    compdef _job-monitor job-monitor
fi
"#;

fn zsh() -> String {
    // An action that begins with a space is run as it is written.
    let offer = |value: Value| match value.completes {
        Completes::Nothing => " ".to_owned(),
        Completes::OpenJobs => " _job_monitor_ids queue".to_owned(),
        Completes::Jobs => " _job_monitor_ids queue status".to_owned(),
        Completes::Projects => " _job_monitor_projects".to_owned(),
        Completes::Commands => " _job_monitor_commands".to_owned(),
        Completes::Directories => "_files -/".to_owned(),
        Completes::Files => "_files".to_owned(),
        Completes::Words(words) => format!("({})", words.join(" ")),
    };
    let argument = |option: &OptionSpec| {
        let long = option.long;
        let (plus, equals) = if option.value.is_some() {
            ("+", "=")
        } else {
            ("", "")
        };
        let forms = match option.short {
            Some(short) => format!("'(-{short} --{long})'{{-{short}{plus},--{long}{equals}}}"),
            None => format!("--{long}{equals}"),
        };
        let value = option
            .value
            .map(|value| format!(":{}:{}", value.name, offer(value)));
        let help = option.help.replace('[', "\\[").replace(']', "\\]");
        format!(
            " \\\n        {forms}{}",
            quoted(&format!("[{help}]{}", value.unwrap_or_default()))
        )
    };
    let mut commands = String::new();
    let mut cases = String::new();
    for spec in COMMANDS {
        let command = quoted(&format!("{}:{}", spec.name, spec.summary));
        commands += &format!("        {command}\n");
    }
    for (name, spec, operand) in first_words() {
        let options: String = spec.offered_options().map(argument).collect();
        let star = match operand {
            Operand::Several(_) | Operand::SeveralOrAll(_) => "*",
            _ => "1",
        };
        let operand = operand.value().map(|value| {
            let argument = quoted(&format!("{star}:{}:{}", value.name, offer(value)));
            format!(" \\\n        {argument}")
        });
        let operand = operand.unwrap_or_default();
        cases += &format!("        {name}) _arguments{options}{operand} ;;\n");
    }
    let globals: String = GLOBALS.iter().map(argument).collect();
    ZSH.replace("@COMMANDS@", &commands)
        .replace("@GLOBALS@", &globals)
        .replace("@CASES@", &cases)
}

/// What is always there in fish.
const FISH: &str = r#"# Completions of job-monitor for fish, printed by: job-monitor completions fish

# Sorts the words before the cursor: the command first, then -p and the project, if given.
function __job_monitor_typed
    set -l command ''
    set -l project
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case -p --project
                set project -p $words[2]
                set -e words[1]
            case '--project=*'
                set project -p (string replace -- --project= '' $words[1])
            case '-p*'
                set project -p (string replace -- -p '' $words[1])
            case '-*'
            case '*'
                test -z "$command"; and set command $words[1]
        end
        set -e words[1]
    end
    string match -qr '^(job|task)-' -- $command; and set command ID
    printf '%s\n' "$command" $project
end

function __job_monitor_at
    set -l typed (__job_monitor_typed)
    test "$typed[1]" = "$argv[1]"
end

function __job_monitor_ids
    set -l typed (__job_monitor_typed)
    for view in $argv
        job-monitor $typed[2..3] $view 2>/dev/null | @IDS@
    end
end

function __job_monitor_first_is_id
    __job_monitor_at ''; and string match -qr '^(job|task)-' -- (commandline -ct)
end

function __job_monitor_projects
    job-monitor list 2>/dev/null | @NAMES@
end

complete -c job-monitor -f
complete -c job-monitor -n __job_monitor_first_is_id -k -a '(__job_monitor_ids queue status)'
"#;

fn fish() -> String {
    let offer = |value: Value| match value.completes {
        Completes::Nothing => String::new(),
        Completes::OpenJobs => " -k -a '(__job_monitor_ids queue)'".to_owned(),
        Completes::Jobs => " -k -a '(__job_monitor_ids queue status)'".to_owned(),
        Completes::Projects => " -a '(__job_monitor_projects)'".to_owned(),
        Completes::Commands => format!(" -a {}", quoted(&command_names())),
        Completes::Directories => " -a '(__fish_complete_directories)'".to_owned(),
        Completes::Files => " -F".to_owned(),
        Completes::Words(words) => format!(" -a {}", quoted(&words.join(" "))),
    };
    let argument = |at: &str, option: &OptionSpec| {
        let short = option
            .short
            .map(|letter| format!(" -s {letter}"))
            .unwrap_or_default();
        let value = option
            .value
            .map(|value| format!(" -x{}", offer(value)))
            .unwrap_or_default();
        let help = quoted(&sentence(option.help));
        format!(
            "complete -c job-monitor{at}{short} -l {}{value} -d {help}\n",
            option.long
        )
    };
    let mut script = String::from(FISH);
    for spec in COMMANDS {
        let summary = quoted(&sentence(spec.summary));
        script += &format!(
            "complete -c job-monitor -n \"__job_monitor_at ''\" -a {} -d {summary}\n",
            spec.name
        );
    }
    let nowhere = " -n \"__job_monitor_at ''\"";
    script.extend(GLOBALS.iter().map(|option| argument(nowhere, option)));
    for (name, spec, operand) in first_words() {
        let at = format!(" -n '__job_monitor_at {name}'");
        if let Some(value) = operand.value() {
            script += &format!("complete -c job-monitor{at}{}\n", offer(value));
        }
        script.extend(spec.offered_options().map(|option| argument(&at, option)));
    }
    script
}

/// What may come first on the line, and what may follow it. The scripts know every job id
/// as `ID`; what it stands for needs no further operand.
fn first_words() -> impl Iterator<Item = (&'static str, &'static CommandSpec, Operand)> {
    let commands = COMMANDS.iter().map(|spec| (spec.name, spec, spec.operand));
    let shown = COMMANDS.iter().filter(|spec| spec.name == SHOW);
    commands.chain(shown.map(|spec| ("ID", spec, Operand::None)))
}

fn command_names() -> String {
    let names: Vec<_> = COMMANDS.iter().map(|spec| spec.name).collect();
    names.join(" ")
}

/// A word as all three shells read it unchanged.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
