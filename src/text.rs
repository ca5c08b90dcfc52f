//! Words that were mistyped.

/// How many letters to insert, drop or replace, or neighbours to swap, from one word to the other.
pub fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut table = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            table[i][j] = match (i, j) {
                (0, _) | (_, 0) => i + j,
                _ => {
                    let replaced = table[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                    replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1)
                }
            };
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                table[i][j] = table[i][j].min(table[i - 2][j - 2] + 1);
            }
        }
    }
    table[from.len()][to.len()]
}

/// The longest word that is compared with others, in bytes: the cost grows with its square.
const WORD_MAX: usize = 200;

/// The one of `names` that was probably meant: one that begins like `typed`, else the one with the
/// fewest letters different, if no more than a third of them are.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let rate = |name: &str| match typed.len() >= 2 && name.starts_with(typed) {
        true => 0,
        false => distance(typed, name),
    };
    names
        .into_iter()
        .filter(|name| typed.len().max(name.len()) <= WORD_MAX)
        .map(|name| (rate(name), name))
        .filter(|(slips, name)| slips * 3 <= typed.len().max(name.len()))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_nothing_far_fetched() {
        const NAMES: [&str; 7] = [
            "queue",
            "status",
            "logs",
            "cancel",
            "completions",
            "retry",
            "unregister",
        ];
        for (typed, meant) in [
            ("quue", Some("queue")),
            ("stauts", Some("status")),
            ("log", Some("logs")),
            ("cancle", Some("cancel")),
            ("comp", Some("completions")),
            ("unregistre", Some("unregister")),
            ("", None),
            ("x", None),
            ("frobnicate", None),
        ] {
            assert_eq!(nearest(typed, NAMES), meant, "{typed}");
        }
        assert_eq!(nearest(&"q".repeat(100_000), NAMES), None);
    }
}
