//! What a failed call says of a GPU and of NVML.

use std::error::Error;

use nvml_wrapper::error::NvmlError;

/// Why NVML cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such library, or it is none.
    #[error("{library} cannot be loaded")]
    Library {
        /// Its path, or the name that was searched for.
        library: String,
        /// The loader's reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The library is there, and the driver is not.
    #[error("{library} is here, but NVIDIA's driver is not loaded")]
    Driver {
        /// The library.
        library: String,
    },
    /// The library does not start.
    #[error("{library} does not start")]
    Start {
        /// The library.
        library: String,
        /// NVML's reason.
        source: NvmlError,
    },
}

/// What a failed call says. Which of these takes a GPU out of service is decided elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The GPU fell off the bus or must be reset: it says nothing more until it is back.
    #[error("the gpu is lost: {0}")]
    Lost(String),
    /// NVML knows no such GPU.
    #[error("NVML knows no such gpu: {0}")]
    Absent(String),
    /// The driver went away or was replaced: nothing works until another [`Session`](super::Session) is opened.
    #[error("the session is over: {0}")]
    Over(String),
    /// The GPU or the library has no such thing: no fault, and no answer either.
    #[error("NVML cannot tell: {0}")]
    Unsupported(String),
    /// The call failed for a reason that is not the GPU's, and may work the next time.
    #[error("NVML failed: {0}")]
    Hiccup(String),
}

impl Fault {
    /// Whether the same call may work the next time.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Hiccup(_))
    }
}

impl From<&NvmlError> for Fault {
    fn from(error: &NvmlError) -> Self {
        let words = error.to_string();
        match error {
            NvmlError::GpuLost | NvmlError::ResetRequired => Self::Lost(words),
            NvmlError::NotFound | NvmlError::InvalidArg => Self::Absent(words),
            NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
                Self::Over(words)
            }
            error if is_no_answer(error) => Self::Unsupported(words),
            _ => Self::Hiccup(words),
        }
    }
}

impl From<NvmlError> for Fault {
    fn from(error: NvmlError) -> Self {
        Self::from(&error)
    }
}

/// Whether the error says that the device or the library has no such thing, and nothing worse.
pub(super) fn is_no_answer(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound
            | NvmlError::InvalidArg
            | NvmlError::NotFound
            | NvmlError::NoData
            | NvmlError::UnexpectedVariant(_)
            | NvmlError::Utf8Error(_)
    )
}

/// The value, or `None` where there is no such thing. Whatever else is wrong stays an error: a hiccup is no answer.
pub(super) fn optional<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_no_answer(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_neither_a_lost_gpu_nor_a_hiccup() {
        let fault = |error: NvmlError| Fault::from(error);
        assert!(matches!(fault(NvmlError::NotSupported), Fault::Unsupported(_)));
        assert!(matches!(fault(NvmlError::FailedToLoadSymbol(String::new())), Fault::Unsupported(_)));
        assert!(matches!(fault(NvmlError::ResetRequired), Fault::Lost(_)));
        assert!(matches!(fault(NvmlError::LibRmVersionMismatch), Fault::Over(_)));
        for error in [NvmlError::Unknown, NvmlError::Timeout, NvmlError::InsufficientMemory, NvmlError::InUse] {
            assert!(matches!(fault(error), Fault::Hiccup(_)));
        }
    }

    #[test]
    fn an_answer_is_missing_only_where_nothing_is_wrong() {
        assert!(matches!(optional::<u32>(Err(NvmlError::NotSupported)), Ok(None)));
        assert!(matches!(optional::<u32>(Err(NvmlError::Unknown)), Err(NvmlError::Unknown)));
        assert!(matches!(optional::<u32>(Err(NvmlError::GpuLost)), Err(NvmlError::GpuLost)));
    }
}
