//! NVIDIA GPUs as NVML knows them: UUID, index, address, memory node. All calls to NVML are in this file.

use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use oarlock_core::NodeSet;
use oarlock_core::pci::PciAddress;

/// The name that a driver and a container toolkit both install; the one without the number comes with development files.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// `NVML_AFFINITY_SCOPE_NODE`.
const NODE_SCOPE: u32 = 0;
/// Words of 64 nodes, enough for every kernel.
const NODE_WORDS: usize = 16;

/// One GPU as NVML describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NvmlGpu {
    pub(crate) index: u32,
    pub(crate) pci: PciAddress,
    pub(crate) uuid: Option<String>,
    pub(crate) name: Option<String>,
    /// `nvmlDeviceGetNumaNodeId`: the GPU's own memory, and not the node to run on.
    pub(crate) memory_node: Option<u32>,
    pub(crate) memory_affinity: Option<NodeSet>,
}

/// Asks NVML for its GPUs. Whatever fails is a warning: locality comes from the kernel's files, with or without NVML.
///
/// `expected` says whether the machine has an NVIDIA GPU: without one, a missing library is no news.
pub(crate) fn read(library: Option<&Path>, expected: bool, warnings: &mut Vec<String>) -> Vec<NvmlGpu> {
    let name = library.map_or(OsStr::new(LIBRARY), Path::as_os_str);
    let shown = name.to_string_lossy();
    let nvml = match Nvml::builder().lib_path(name).init() {
        Ok(nvml) => nvml,
        Err(NvmlError::LibloadingError(error)) => {
            if expected || library.is_some() {
                warnings.push(format!("no NVML, so GPUs have no UUID: {shown} cannot be loaded: {error}"));
            }
            return Vec::new();
        }
        Err(NvmlError::DriverNotLoaded) => {
            warnings.push(format!("no NVML, so GPUs have no UUID: {shown} is here, but NVIDIA's driver is not loaded"));
            return Vec::new();
        }
        Err(error) => {
            warnings.push(format!("no NVML, so GPUs have no UUID: {shown} does not start: {error}"));
            return Vec::new();
        }
    };
    let count = nvml.device_count().unwrap_or_else(|error| {
        warnings.push(format!("NVML does not say how many GPUs there are: {error}"));
        0
    });
    (0..count)
        .filter_map(|index| match nvml.device_by_index(index).and_then(|device| gpu(index, &device)) {
            Ok(Some(gpu)) => Some(gpu),
            Ok(None) => {
                warnings.push(format!("NVML gives gpu {index} an address that is none"));
                None
            }
            Err(error) => {
                warnings.push(format!("NVML cannot reach gpu {index}: {error}"));
                None
            }
        })
        .collect()
}

fn gpu(index: u32, device: &Device<'_>) -> Result<Option<NvmlGpu>, NvmlError> {
    let Ok(pci) = device.pci_info()?.bus_id.parse() else { return Ok(None) };
    // A lost GPU still has an address; that it has no UUID is what tells.
    let uuid = match device.uuid() {
        Ok(uuid) => Some(uuid),
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::Unknown)) => return Err(error),
        Err(_) => None,
    };
    let affinity = device.memory_affinity(NODE_WORDS, NODE_SCOPE).ok();
    Ok(Some(NvmlGpu {
        index,
        pci,
        uuid,
        name: device.name().ok(),
        memory_node: device.numa_node_id().ok(),
        memory_affinity: affinity.map(|words| nodes(&words)),
    }))
}

fn nodes(words: &[std::ffi::c_ulong]) -> NodeSet {
    let mut nodes = NodeSet::new();
    for (word, base) in words.iter().zip((0..).step_by(std::ffi::c_ulong::BITS as usize)) {
        for bit in (0..std::ffi::c_ulong::BITS).filter(|bit| word & (1 << bit) != 0) {
            nodes.insert(base + bit);
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_news_only_where_a_gpu_is_expected_or_a_path_was_given() {
        let nowhere = Path::new("/nonexistent/libnvidia-ml.so.1");
        let mut warnings = Vec::new();
        assert!(read(Some(nowhere), false, &mut warnings).is_empty());
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
        assert!(read(Some(Path::new("libc.so.6")), false, &mut warnings).is_empty());
        assert!(warnings[0].starts_with("no NVML, so GPUs have no UUID: libc.so.6 does not start: "), "{warnings:?}");
    }

    #[test]
    fn node_words_count_from_the_lowest_bit_of_the_first() {
        assert_eq!(nodes(&[1 << 3, 0, 1]).to_string(), "3,128");
    }
}
