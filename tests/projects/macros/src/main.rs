//! Every kind of procedural macro once: derive, attribute and function-like.

use std::time::Duration;

use clap::Parser;
use futures::{pin_mut, StreamExt};
use serde::{Deserialize, Serialize};
use strum::IntoEnumIterator;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// How many jobs to run
    #[arg(short, long, default_value_t = 3)]
    jobs: u32,
    /// Where the work comes from
    #[arg(long, value_enum, default_value_t = Source::Memory)]
    source: Source,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum,
    strum::EnumIter, strum::Display, strum::EnumString,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
enum Source {
    Memory,
    LocalDisk,
    Network,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("job {id} took more than {limit:?}")]
    TooSlow { id: JobId, limit: Duration },
    #[error("cannot write the report")]
    Report(#[from] serde_json::Error),
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
    derive_more::Display, derive_more::From, derive_more::Into, derive_more::Add,
)]
#[display("#{_0}")]
struct JobId(u32);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Outcome {
    Done { id: JobId, source: Source },
    Skipped { id: JobId },
}

#[async_trait::async_trait]
trait Work: Send + Sync {
    async fn run(&self, id: JobId) -> Result<Outcome, Failure>;
}

struct Even(Source);

#[async_trait::async_trait]
impl Work for Even {
    #[tracing::instrument(skip(self))]
    async fn run(&self, id: JobId) -> Result<Outcome, Failure> {
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, tokio::task::yield_now())
            .await
            .map_err(|_| Failure::TooSlow { id, limit })?;
        Ok(if u32::from(id) % 2 == 0 {
            Outcome::Done { id, source: self.0 }
        } else {
            Outcome::Skipped { id }
        })
    }
}

#[pin_project::pin_project]
struct Timed<F> {
    #[pin]
    inner: F,
    polls: u32,
}

impl<F: std::future::Future> std::future::Future for Timed<F> {
    type Output = (F::Output, u32);

    fn poll(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let this = self.project();
        *this.polls += 1;
        this.inner.poll(context).map(|output| (output, *this.polls))
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let work = Even(options.source);
    let outcomes = async_stream::stream! {
        for id in (0..options.jobs).map(JobId::from) {
            yield Timed { inner: work.run(id), polls: 0 }.await.0;
        }
    };
    pin_mut!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        println!("{}", serde_json::to_string(&outcome?)?);
    }
    let sources: Vec<String> = Source::iter().map(|source| source.to_string()).collect();
    println!("sources: {}", sources.join(" "));
    Ok(())
}
