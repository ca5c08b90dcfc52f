//! `config`: the settings in force, and where each comes from.

use super::*;

pub(super) fn config(scope: &Scope, format: Format) -> Result<()> {
    let path = scope.places.settings();
    let (settings, warnings) = settings::load(&path)?;
    warnings.iter().for_each(|warning| render::note(warning));
    let mut text = format!("All projects ({})\n", path.display());
    let mut common = lines(true, &settings, &Map::new(), &mut text);
    if scope.entries.is_empty() {
        // There is no project yet; this is what will hold for the first one.
        common.extend(lines(false, &settings, &Map::new(), &mut text));
    }
    let mut projects = Vec::new();
    for entry in &scope.entries {
        let (name, path) = (&entry.project.name, &entry.project.path);
        let skipped = entry.policy(&settings).err().map(|e| e.to_string());
        text += &format!("\n{name} ({})\n", path.display());
        if let Some(mistake) = &skipped {
            text += &format!("  Skipped: {mistake}\n");
        }
        let own = lines(false, &settings, &entry.own, &mut text);
        projects.push(json!({"name": name, "path": path, "skipped": skipped, "settings": own}));
    }
    let all = json!({"settings": common, "projects": projects});
    render::answer(format, &all, || render::clean(&text).into_owned())
}

/// The settings for all projects, or those of one, and a line for each at the end of `text`.
fn lines(
    common: bool,
    settings: &Settings,
    own: &Map<String, Value>,
    text: &mut String,
) -> Vec<Value> {
    let agents = || settings.agents.iter().map(|agent| agent.name.as_str());
    let line = |(key, default): &(&str, &str)| {
        let default = || serde_json::from_str(default).expect("the defaults are JSON");
        let (value, from) = match (own.get(*key), settings.values.get(*key)) {
            (Some(value), _) => (value.clone(), "the project's entry"),
            (None, Some(value)) => (value.clone(), "config.json"),
            (None, None) => (default(), "default"),
        };
        // The rest of an agent's entry may be secret.
        let value = match *key {
            "agents" => agents().collect(),
            _ => value,
        };
        let shown = match &value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        *text += &format!("  {key:<17} {shown:<24} {from}\n");
        json!({"key": key, "value": value, "from": from})
    };
    let keys = KEYS
        .iter()
        .filter(|(key, _)| GLOBAL_KEYS.contains(key) == common);
    keys.map(line).collect()
}
