//! Indexes a folder, asks a question, prints a report.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
#[command(version, about = "Find lines in a folder")]
struct Options {
    /// Where to look
    folder: PathBuf,
    /// A regular expression
    pattern: String,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only files whose names match one of these globs
    #[arg(long)]
    glob: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
    Toml,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let index = index::Index::build(options.folder, &options.glob).await?;
    let hits = query::Query::new(&options.pattern)?.run(&index)?;
    tracing::info!(files = index.len(), hits = hits.len(), "done");
    print!(
        "{}",
        match options.format {
            Format::Table => report::table(&hits),
            Format::Json => report::json(&hits)?,
            Format::Toml => report::toml(&hits)?,
        }
    );
    Ok(())
}
