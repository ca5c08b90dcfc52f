//! What `--help` prints, and what the help texts say of each command to the manual page and the
//! completions.

/// The help of one command.
#[derive(Clone, Copy, Debug)]
pub struct CommandHelp {
    /// What is typed.
    pub name: &'static str,
    /// The whole text.
    pub text: &'static str,
}

/// The help of every command, in the order in which people meet them.
pub fn commands() -> impl Iterator<Item = CommandHelp> {
    let pages = include_str!("commands.txt").split("\n= ");
    pages.filter_map(|page| {
        let (name, text) = page.trim_start_matches("= ").split_once('\n')?;
        let text = text.trim_end();
        Some(CommandHelp { name, text })
    })
}

/// The help for a command, or for the program when there is no command of that name.
pub fn help(topic: Option<&str>) -> String {
    let page = topic.and_then(|name| commands().find(|command| command.name == name));
    match page {
        Some(page) => format!("{}\n", page.text),
        None => include_str!("overview.txt").to_owned(),
    }
}

impl CommandHelp {
    /// Its options, as `(long name without dashes, the word for its value)`.
    pub fn options(self) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
        let lines = self.text.lines().filter(|line| line.starts_with("  "));
        lines.filter_map(|line| {
            let (signature, _) = line
                .trim_start()
                .split_once("  ")
                .unwrap_or((line.trim(), ""));
            let (_, option) = signature
                .split_once("--")
                .filter(|_| signature.starts_with('-'))?;
            Some(
                option
                    .split_once(' ')
                    .map_or((option, None), |(long, value)| (long, Some(value))),
            )
        })
    }

    /// The usage without the program's name.
    pub fn usage(self) -> &'static str {
        let line = self.text.lines().next().unwrap_or_default();
        line.trim_start_matches("Usage: job-monitor ")
    }

    /// The word for what it takes beside options: `ID`, `PATH`.
    pub fn operand(self) -> Option<&'static str> {
        let words = self
            .usage()
            .split(' ')
            .skip(1)
            .filter(|word| !word.contains("OPTION"));
        let words = words.map(|word| word.trim_matches(|c: char| !c.is_ascii_uppercase()));
        words
            .filter(|word| *word != "DURATION")
            .find(|word| !word.is_empty())
    }
}
