//! Hits as a table, as JSON, as TOML.

use comfy_table::{presets::UTF8_FULL, Table};
use query::Hit;
use serde::Serialize;

#[derive(Serialize)]
struct Page<'a> {
    hits: &'a [Hit],
}

pub fn table(hits: &[Hit]) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL).set_header(["file", "line", "text"]);
    for hit in hits {
        table.add_row([hit.path.clone(), hit.line.to_string(), hit.text.clone()]);
    }
    format!("{table}\n")
}

pub fn json(hits: &[Hit]) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&Page { hits })? + "\n")
}

pub fn toml(hits: &[Hit]) -> anyhow::Result<String> {
    Ok(toml::to_string(&Page { hits })?)
}
