//! Reads the files of a folder, side by side, into memory.

use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub text: Text,
    pub sha256: String,
}

/// Bytes which serialise as lossy text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Text(pub Bytes);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl From<Text> for String {
    fn from(bytes: Text) -> Self {
        String::from_utf8_lossy(&bytes.0).into_owned()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Index {
    pub files: IndexMap<PathBuf, Entry>,
}

impl Index {
    pub async fn build(folder: PathBuf, globs: &[String]) -> anyhow::Result<Self> {
        let mut wanted = globset::GlobSetBuilder::new();
        for glob in globs {
            wanted.add(globset::Glob::new(glob)?);
        }
        let wanted = wanted.build()?;
        let paths = ignore::WalkBuilder::new(&folder)
            .build()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
            .map(|entry| entry.into_path())
            .filter(|path| wanted.is_empty() || wanted.is_match(path))
            .collect::<Vec<_>>();

        let mut files: IndexMap<_, _> = futures::stream::iter(paths)
            .map(|path| async {
                let text = tokio::fs::read(&path)
                    .await
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let sha256 = format!("{:x}", Sha256::digest(&text));
                anyhow::Ok((path, Entry { text: Text(text.into()), sha256 }))
            })
            .buffer_unordered(16)
            .try_collect::<Vec<_>>()
            .await?
            .into_iter()
            .collect();
        files.sort_keys();
        Ok(Self { files })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}
