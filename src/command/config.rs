//! `config`: the settings in force, and where each comes from.

use super::Outcome;
use super::scope::Scope;
use crate::cli::Format;
use crate::error::Exit;
use crate::project::{GLOBAL_KEYS, KEYS};
use crate::render;
use crate::settings::{self, Settings};
use serde::Serialize;
use serde_json::{Map, Value, json};

#[derive(Serialize)]
struct Line {
    key: &'static str,
    value: Value,
    from: &'static str,
}

pub(super) fn config(scope: &Scope, format: Format) -> Outcome {
    let (settings, warnings) = settings::load(&scope.places.settings())?;
    warnings.iter().for_each(|warning| render::note(warning));
    let none = Map::new();
    // Where there is no project, those of the first one to come.
    let common: Vec<_> = match scope.entries.is_empty() {
        true => GLOBAL_KEYS.iter().chain(KEYS).collect(),
        false => GLOBAL_KEYS.iter().collect(),
    };
    let common = lines(common, &settings, &none);
    let mut text = format!(
        "All projects ({})\n{}",
        scope.places.settings().display(),
        table(&common)
    );
    let mut projects = Vec::new();
    for entry in &scope.entries {
        let project = &entry.project;
        let own = lines(KEYS, &settings, &entry.own);
        let skipped = entry.policy(&settings).err().map(|e| e.to_string());
        text.push_str(&format!(
            "\n{} ({})\n",
            project.name,
            project.path.display()
        ));
        if let Some(mistake) = &skipped {
            text.push_str(&format!("  Skipped: {mistake}\n"));
        }
        text.push_str(&table(&own));
        projects.push(json!({"name": project.name, "path": project.path, "skipped": skipped, "settings": own}));
    }
    let all = json!({"settings": common, "projects": projects});
    render::answer(format, &all, || render::clean(&text).into_owned())?;
    Ok(Exit::Done)
}

fn lines<'a>(
    keys: impl IntoIterator<Item = &'a (&'static str, &'static str)>,
    settings: &Settings,
    own: &Map<String, Value>,
) -> Vec<Line> {
    let line = |(key, default): &(&'static str, &'static str)| {
        let default = || serde_json::from_str(default).expect("the defaults are JSON");
        let (value, from) = match (own.get(*key), settings.values.get(*key)) {
            (Some(value), _) => (value.clone(), "the project's entry"),
            (None, Some(value)) => (value.clone(), "config.json"),
            (None, None) => (default(), "default"),
        };
        // What else an agent's entry says may be secret.
        let value = match *key {
            "agents" => settings
                .agents
                .iter()
                .map(|agent| agent.name.as_str())
                .collect(),
            _ => value,
        };
        Line { key, value, from }
    };
    keys.into_iter().map(line).collect()
}

fn table(lines: &[Line]) -> String {
    let row = |line: &Line| {
        let value = match &line.value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        format!("  {:<17} {value:<24} {}\n", line.key, line.from)
    };
    lines.iter().map(row).collect()
}
