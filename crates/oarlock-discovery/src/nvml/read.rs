//! NVML's part of a machine that is being read. Whatever fails is a warning: locality comes from the kernel's files, with
//! or without NVML.

use std::error::Error;
use std::path::Path;

use oarlock_core::link::Link;

use super::{Gpu, OpenError, Session};

/// What NVML knows of a machine.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) gpus: Vec<Gpu>,
    /// How they are joined, in their order.
    pub(crate) links: Vec<Vec<Link>>,
}

/// Asks NVML for its GPUs. `expected` says whether the machine has an NVIDIA GPU: without one, a missing library is no
/// news.
pub(crate) fn read(library: Option<&Path>, expected: bool, warnings: &mut Vec<String>) -> Known {
    let session = match Session::open(library) {
        Ok(session) => session,
        Err(OpenError::Library { .. }) if !expected && library.is_none() => return Known::default(),
        Err(error) => {
            let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
            warnings.push(format!("no NVML, so GPUs have no UUID: {error}{cause}"));
            return Known::default();
        }
    };
    match session.list() {
        Err(fault) => {
            warnings.push(format!("NVML does not say which GPUs there are: {fault}"));
            Known::default()
        }
        Ok(listing) => {
            let unreachable = listing.unreachable.iter();
            warnings.extend(unreachable.map(|(index, fault)| format!("NVML cannot reach gpu {index}: {fault}")));
            Known { links: session.links(&listing.gpus), gpus: listing.gpus }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_news_only_where_a_gpu_is_expected_or_a_path_was_given() {
        let nowhere = Path::new("/nonexistent/libnvidia-ml.so.1");
        let mut warnings = Vec::new();
        assert!(read(Some(nowhere), false, &mut warnings).gpus.is_empty());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("/nonexistent/libnvidia-ml.so.1"), "{warnings:?}");
        // The test machines have no driver; where one has, this says nothing either.
        warnings.clear();
        read(None, false, &mut warnings);
        assert!(warnings.iter().all(|warning| !warning.contains("cannot be loaded")), "{warnings:?}");
    }

    #[test]
    fn a_library_that_is_no_nvml_is_a_warning() {
        let mut warnings = Vec::new();
        assert!(read(Some(Path::new("libc.so.6")), false, &mut warnings).gpus.is_empty());
        assert!(warnings[0].starts_with("no NVML, so GPUs have no UUID: libc.so.6 does not start: "), "{warnings:?}");
    }
}
