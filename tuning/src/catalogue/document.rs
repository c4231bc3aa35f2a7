//! The catalogue as a page of documentation.

use super::{Catalogue, Knob};
use serde::Serialize;

/// A list of all knobs, then each by itself, then the facts that expressions may name; Markdown.
pub fn document(catalogue: &Catalogue) -> String {
    let mut text = String::from("| knob | mode | risk | shown by | value |\n|---|---|---|---|---|\n");
    for knob in &catalogue.knobs {
        let value = knob.value.as_ref().map_or("only told".into(), |value| code(&value.to_string()));
        let signal = knob.signal.as_ref().map_or("–".into(), word);
        text += &format!("| [`{0}`](#{0}) | {1} | {2} | {signal} | {value} |\n", knob.id, mode(knob), word(&knob.risk));
    }
    for knob in &catalogue.knobs {
        text += &format!("\n### {}\n\n{}\n\n", knob.id, knob.why);
        text += &format!("- where: `{}`", knob.path);
        if let Some(twin) = &knob.twin {
            text += &format!(", twin of `{twin}`");
        }
        if let Some(group) = &knob.group {
            text += &format!("; one unit with the others of group `{group}`");
        }
        if let Some(value) = &knob.value {
            text += &format!("\n- value: {}", code(&value.to_string()));
        }
        if let Some(when) = &knob.when {
            text += &format!("\n- applies when: {}", code(&when.to_string()));
        }
        if !knob.default.is_empty() {
            let default: Vec<_> = knob.default.iter().map(|value| format!("`{value}`")).collect();
            text += &format!("\n- left alone unless it is the kernel's default: {}", default.join(" or "));
        }
        if !knob.kernel_resets_on.is_empty() {
            text +=
                &format!("\n- the kernel computes it anew when these change: `{}`", knob.kernel_resets_on.join("`, `"));
        }
        text += &format!("\n- source: {}\n", knob.source);
    }
    text += "\n## Facts\n\n| fact | what |\n|---|---|\n";
    for (name, what) in catalogue.domain.all_facts() {
        text += &format!("| `{name}` | {what} |\n");
    }
    text
}

fn mode(knob: &Knob) -> String {
    word(&knob.mode)
}

/// An expression on one line.
fn code(text: &str) -> String {
    format!("`{}`", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// As in the catalogue.
fn word(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}
