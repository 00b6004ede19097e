//! A folder of a source as a source of its own. Owns the folder's name, which its keys leave out.

use crate::read::source::{Object, RangeRequest, ReadError, Source, SourceCache};
use crate::stop::Stop;
use std::sync::Arc;

/// The objects of a source below one folder.
#[derive(Debug)]
pub(super) struct Subfolder {
    inner: Arc<dyn Source>,
    /// With `/` at its end.
    folder: String,
}

impl Subfolder {
    /// What lies below `folder` of `inner`, whose name is not empty and does not end in `/`.
    pub(super) fn new(inner: Arc<dyn Source>, folder: &str) -> Subfolder {
        Subfolder { inner, folder: format!("{folder}/") }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.folder)
    }

    fn without_folder(&self, object: Object) -> Object {
        match object.key.strip_prefix(&self.folder) {
            Some(key) => Object { key: key.to_owned(), ..object },
            None => object,
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Source for Subfolder {
    fn location(&self, key: &str) -> String {
        self.inner.location(&self.key(key))
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.inner.get(&RangeRequest { key: &self.key(want.key), ..want.clone() }, into)
    }

    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let keys: Vec<String> = wants.iter().map(|want| self.key(want.key)).collect();
        let wants = wants.iter().zip(&keys).map(|(want, key)| RangeRequest { key, ..want.clone() });
        self.inner.get_many(&wants.collect::<Vec<_>>(), into)
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        let objects = self.inner.list(&self.key(prefix), stop)?;
        Ok(objects.into_iter().map(|object| self.without_folder(object)).collect())
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        self.inner.head(&self.key(key), stop).map(|object| self.without_folder(object))
    }

    fn cache(&self) -> Option<&dyn SourceCache> {
        self.inner.cache()
    }
}
