//! Quantities of Kubernetes: `8`, `512Mi`, `1.5Gi`, `100m`, `2e3`, exactly as `resource.Quantity` takes them.

/// A quantity as an exact fraction; never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantity {
    numerator: u128,
    denominator: u128,
}

/// A text that is no quantity, or one that no resource of a host can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a quantity from 0 to 2^64 - 1 like 8, 512Mi or 1.5Gi")]
pub(super) struct ParseQuantityError(String);

impl std::str::FromStr for Quantity {
    type Err = ParseQuantityError;

    /// Parses a number with an optional fraction and one suffix: binary (`Ki` to `Ei`), decimal (`n`, `u`, `m`, `k`, `M`,
    /// `G`, `T`, `P`, `E`) or an exponent (`e3`, `E-3`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseQuantityError(text.chars().take(60).collect()))
    }
}

fn parse(text: &str) -> Option<Quantity> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Of digits that cannot matter there may be some, of an endless number none.
    if whole.len() + fraction.len() == 0 || number.len() > 40 || fraction.contains('.') {
        return None;
    }
    let digits = [whole.trim_start_matches('0'), fraction].concat();
    let mantissa: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let (by, per) = factor(suffix)?;
    let quantity = Quantity {
        numerator: mantissa.checked_mul(by)?,
        denominator: 10_u128.checked_pow(fraction.len() as u32)?.checked_mul(per)?,
    };
    (quantity.rounded_up() <= u128::from(u64::MAX)).then_some(quantity)
}

/// What a suffix multiplies with and divides by.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(index) = BINARY.iter().position(|binary| *binary == suffix) {
        return Some((1 << (10 * (index + 1)), 1));
    }
    let exponent = match DECIMAL.iter().find(|(decimal, _)| *decimal == suffix) {
        Some((_, exponent)) => *exponent,
        None => suffix.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

impl Quantity {
    /// The number where it is a whole one.
    pub(super) fn whole(self) -> Option<u64> {
        self.numerator.is_multiple_of(self.denominator).then(|| self.up())
    }

    /// The number, a fraction rounded up, as Kubernetes does it for bytes.
    pub(super) fn up(self) -> u64 {
        // The parser lets nothing larger through.
        u64::try_from(self.rounded_up()).unwrap_or(u64::MAX)
    }

    fn rounded_up(self) -> u128 {
        self.numerator.div_ceil(self.denominator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_of_kubernetes_has_its_size() {
        for (text, number) in [
            ("0", 0),
            ("8", 8),
            ("+8", 8),
            ("8.", 8),
            (".5k", 500),
            ("1500m", 2),
            ("1u", 1),
            ("2000000000n", 2),
            ("3k", 3_000),
            ("3M", 3_000_000),
            ("3G", 3_000_000_000),
            ("3T", 3_000_000_000_000),
            ("3P", 3_000_000_000_000_000),
            ("3E", 3_000_000_000_000_000_000),
            ("3Ki", 3 << 10),
            ("3Mi", 3 << 20),
            ("1.5Gi", 3 << 29),
            ("3Ti", 3 << 40),
            ("3Pi", 3 << 50),
            ("3Ei", 3 << 60),
            ("2e3", 2_000),
            ("2E3", 2_000),
            ("2E+3", 2_000),
            ("2500e-3", 3),
            ("0.0001Ki", 1),
            ("18446744073709551615", u64::MAX),
            ("000000000000000000000000000000000008", 8),
        ] {
            assert_eq!(text.parse::<Quantity>().map(Quantity::up), Ok(number), "{text}");
        }
    }

    #[test]
    fn only_whole_quantities_count_devices() {
        for (text, whole) in [("8", Some(8)), ("8000m", Some(8)), ("1k", Some(1000)), ("1.5", None), ("1500m", None)] {
            assert_eq!(text.parse::<Quantity>().unwrap().whole(), whole, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_the_text() {
        for text in [
            "",
            " 8",
            "8 Gi",
            "-1",
            "Gi",
            ".",
            "+",
            "1.2.3",
            "8gi",
            "8GiB",
            "8K",
            "1e",
            "1e1.5",
            "1e99",
            "1ee3",
            "0x10",
            "١",
            "20Ei",
            "18446744073709551616",
            "1_000",
            "1e999999999999",
            "e3",
        ] {
            let error = text.parse::<Quantity>().expect_err(text).to_string();
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
        let long = "9".repeat(100_000);
        assert!(long.parse::<Quantity>().unwrap_err().to_string().len() < 200);
    }
}
