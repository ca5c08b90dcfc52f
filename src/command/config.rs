//! `config`: the settings in force, and where each comes from.

use super::*;

/// A setting in force.
#[derive(Serialize)]
struct Line {
    key: &'static str,
    value: Value,
    from: &'static str,
}

/// Those for all projects, and those of each project in question.
pub(super) fn config(scope: &Scope, format: Format) -> Result<()> {
    let path = scope.places.settings();
    let (settings, warnings) = settings::load(&path)?;
    warnings.iter().for_each(|warning| render::note(warning));
    let common = lines(&settings, &Map::new());
    let mut text = format!("All projects ({})\n{}", path.display(), told(&common));
    let mut projects = Vec::new();
    for entry in &scope.entries {
        let (name, path) = (&entry.project.name, &entry.project.path);
        let own = lines(&settings, &entry.own);
        let skipped = entry.policy(&settings).err().map(|e| e.to_string());
        skipped.iter().for_each(|mistake| render::note(mistake));
        text += &format!("\n{name} ({})\n{}", path.display(), told(&own));
        projects.push(json!({"name": name, "path": path, "skipped": skipped, "settings": own}));
    }
    let all = json!({"settings": common, "projects": projects});
    render::answer(format, &all, || clean(&text).into_owned())
}

fn lines(settings: &Settings, own: &Map<String, Value>) -> Vec<Line> {
    let line = |&(key, default): &(&'static str, &str)| {
        let default = || serde_json::from_str(default).expect("the defaults are JSON");
        let (value, from) = match (own.get(key), settings.values.get(key)) {
            (Some(value), _) => (value.clone(), "the project's entry"),
            (None, Some(value)) => (value.clone(), "config.json"),
            (None, None) => (default(), "default"),
        };
        // The rest of an agent's entry may be secret.
        let names = || settings.agents.iter().map(|agent| agent.name.as_str());
        let value = match key {
            "agents" => names().collect(),
            _ => value,
        };
        Line { key, value, from }
    };
    KEYS.iter().map(line).collect()
}

fn told(lines: &[Line]) -> String {
    let line = |Line { key, value, from }: &Line| {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        format!("  {key:<17} {value:<24} {from}\n")
    };
    lines.iter().map(line).collect()
}
