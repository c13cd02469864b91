//! PCI addresses, in the kernel's form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a PCI function sits: `domain:bus:device.function`, printed as sysfs names its folder (`000f:01:00.0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain (segment); above `ffff` the kernel prints more than four digits.
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, below 32.
    pub device: u8,
    /// Function number, below 8.
    pub function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a PCI address like 0000:07:00.0")]
pub struct ParsePciAddressError(String);

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    /// Parses `domain:bus:device.function` in hexadecimal, of either case and with any number of leading zeros, since
    /// NVML prints eight upper-case domain digits (`0000000F:01:00.0`). A missing domain is 0.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePciAddressError(crate::idset::shown(text));
        let hex = |digits: &str, limit: u32| {
            (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u32::from_str_radix(digits, 16).ok())
                .flatten()
                .filter(|&value| value <= limit)
                .ok_or_else(error)
        };
        let (rest, function) = text.split_once('.').ok_or_else(error)?;
        let mut parts = rest.rsplit(':');
        let device = parts.next().ok_or_else(error)?;
        let bus = parts.next().ok_or_else(error)?;
        let domain = parts.next().unwrap_or("0");
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Self {
            domain: hex(domain, u32::MAX)?,
            bus: hex(bus, 0xff)? as u8,
            device: hex(device, 0x1f)? as u8,
            function: hex(function, 7)? as u8,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_sysfs_names_them_whatever_form_they_were_read_in() {
        for (text, printed) in [
            ("0000:07:00.0", "0000:07:00.0"),
            ("0000000F:01:00.0", "000f:01:00.0"),
            ("10000:00:1f.7", "10000:00:1f.7"),
            ("07:00.0", "0000:07:00.0"),
            ("fb49:00:00.0", "fb49:00:00.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_text() {
        for text in
            ["", "d1", "0000:07:00", "0000:07:20.0", "0000:07:00.8", "0:0:0:0.0", "0000:1ff:00.0", "+1:00.0", "g0:00.0"]
        {
            let error = text.parse::<PciAddress>().unwrap_err();
            assert!(error.to_string().contains(&format!("\"{text}\"")), "{error}");
        }
    }
}
