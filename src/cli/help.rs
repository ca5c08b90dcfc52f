//! What `commands.txt` says: the text that `--help` prints, and, read out of it, which options and
//! operands each command takes.

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
pub fn help(topic: &str) -> String {
    match commands().find(|command| command.name == topic) {
        Some(page) => format!("{}\n", page.text),
        None => include_str!("overview.txt").to_owned(),
    }
}

impl CommandHelp {
    /// Its options: the short name, the long name, and the word for its value; the first and the last are
    /// empty where there is none.
    pub fn options(self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let lines = self.text.lines().map(str::trim_start);
        let lines = lines.filter(|line| line.starts_with('-'));
        lines.map(|line| {
            let names = line.split("  ").next().unwrap_or(line);
            let (short, long) = names.split_once(", ").unwrap_or(("", names));
            let (long, value) = long.split_once(' ').unwrap_or((long, ""));
            (short, long, value)
        })
    }

    /// The usage without the program's name.
    pub fn usage(self) -> &'static str {
        let line = self.text.lines().next().unwrap_or_default();
        line.trim_start_matches("Usage: job-monitor ")
    }

    /// What it takes beside options, as the usage has it: `ID...`, `[FILE]`, `PATH`.
    pub fn operands(self) -> impl Iterator<Item = &'static str> {
        let words = self.usage().split(' ').skip(1);
        let words = words.take_while(|word| *word != "|");
        words.filter(|word| !word.starts_with("--") && !["[OPTION...]", "DURATION"].contains(word))
    }
}
