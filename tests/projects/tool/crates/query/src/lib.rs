//! Finds lines by regular expression; `min:3 word` wants lines of at least three graphemes.

use index::Index;
use itertools::Itertools;
use rayon::prelude::*;
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("not a regular expression: {0}")]
    Pattern(#[from] regex::Error),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    pub path: String,
    pub line: u64,
    pub text: String,
}

#[derive(Debug)]
pub struct Query {
    pattern: Regex,
    least_graphemes: usize,
}

fn least(input: &str) -> Option<(usize, &str)> {
    let (number, rest) = input.strip_prefix("min:")?.split_once(' ')?;
    Some((number.parse().ok()?, rest))
}

impl Query {
    pub fn new(text: &str) -> Result<Self, QueryError> {
        let (least_graphemes, pattern) = least(text).unwrap_or((0, text));
        Ok(Self {
            pattern: Regex::new(pattern)?,
            least_graphemes,
        })
    }

    pub fn run(&self, index: &Index) -> Result<Vec<Hit>, QueryError> {
        let files: Vec<_> = index.files.iter().collect();
        Ok(files
            .par_iter()
            .flat_map_iter(|(path, entry)| {
                entry
                    .text
                    .0
                    .split(|byte| *byte == b'\n')
                    .enumerate()
                    .filter(|(_, line)| self.pattern.is_match(line))
                    .map(|(number, line)| Hit {
                        path: path.display().to_string(),
                        line: number as u64 + 1,
                        text: String::from_utf8_lossy(line).into_owned(),
                    })
            })
            .filter(|hit| hit.text.graphemes(true).count() >= self.least_graphemes)
            .collect::<Vec<_>>()
            .into_iter()
            .sorted_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_a_line_of_this_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src").into();
        let index = Index::build(folder, &["*.rs".to_owned()]).await.unwrap();
        let hits = Query::new("min:3 ^pub struct Hit").unwrap().run(&index).unwrap();
        assert_eq!(hits.len(), 1);
    }
}
