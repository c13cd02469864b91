//! Sets of CPU ids and of NUMA node ids, in the kernel's list form (`0-3,8,10-11`).
//!
//! One parser, one printer, one bound. [`CpuSet`] and [`NodeSet`] share the code but are distinct types, so that a
//! CPU can never be passed for a node.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the ids of a set count: decides the type and the kernel's bound on the ids.
pub trait Kind: 'static {
    /// Ids are below this number.
    const LIMIT: u32;
    /// The word for one id in errors.
    const NOUN: &'static str;
}

/// Marker for logical CPUs, as numbered by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {}

impl Kind for Cpu {
    /// The largest `NR_CPUS` that the kernel can be built with (x86-64, `MAXSMP`).
    const LIMIT: u32 = 8192;
    const NOUN: &'static str = "cpu";
}

/// Marker for NUMA nodes, as numbered by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {}

impl Kind for Node {
    /// `MAX_NUMNODES`: the largest `NODES_SHIFT` is 10.
    const LIMIT: u32 = 1024;
    const NOUN: &'static str = "node";
}

/// A set of logical CPUs.
pub type CpuSet = IdSet<Cpu>;
/// A set of NUMA nodes.
pub type NodeSet = IdSet<Node>;

/// A set of ids below [`Kind::LIMIT`]. Prints and parses the kernel's list form; the empty set is the empty string.
pub struct IdSet<K> {
    /// Bit `i` of word `w` is id `64 w + i`; the last word is never zero, so that equal sets are equal vectors.
    words: Vec<u64>,
    kind: PhantomData<K>,
}

/// Why a text is no set of ids. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdSetError {
    /// Two commas in a row, or one at an end.
    #[error("empty entry at character {at}: entries are numbers or ranges, separated by single commas")]
    EmptyEntry {
        /// Where the entry should begin.
        at: usize,
    },
    /// Something that is neither a number nor a range.
    #[error("\"{entry}\" at character {at} is not a {noun} number or a range like 0-3")]
    NotANumber {
        /// The entry as written.
        entry: String,
        /// Where it begins.
        at: usize,
        /// What the set counts.
        noun: &'static str,
    },
    /// A range that runs downwards.
    #[error("range \"{entry}\" at character {at} is reversed: the lower {noun} comes first")]
    Reversed {
        /// The entry as written.
        entry: String,
        /// Where it begins.
        at: usize,
        /// What the set counts.
        noun: &'static str,
    },
    /// An id that no kernel has.
    #[error("{noun} number in \"{entry}\" at character {at} is too large: the kernel's highest is {}", limit - 1)]
    TooLarge {
        /// The entry as written.
        entry: String,
        /// Where it begins.
        at: usize,
        /// What the set counts.
        noun: &'static str,
        /// Ids are below this.
        limit: u32,
    },
    /// An id named twice.
    #[error("\"{entry}\" at character {at} overlaps an earlier entry: each {noun} is named once")]
    Overlap {
        /// The entry as written.
        entry: String,
        /// Where it begins.
        at: usize,
        /// What the set counts.
        noun: &'static str,
    },
}

/// Why a text is no CPU or node mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a mask of comma-separated 32-bit hexadecimal words below {noun} {limit}")]
pub struct ParseMaskError {
    text: String,
    noun: &'static str,
    limit: u32,
}

impl<K: Kind> IdSet<K> {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: Vec::new(), kind: PhantomData }
    }

    /// The set of one id; empty when `id` is past the limit.
    pub fn of(id: u32) -> Self {
        let mut set = Self::new();
        set.insert(id);
        set
    }

    /// Adds `id`. Returns whether it is now in the set: an id past the limit never is.
    pub fn insert(&mut self, id: u32) -> bool {
        if id >= K::LIMIT {
            return false;
        }
        let word = (id / 64) as usize;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id % 64);
        true
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut((id / 64) as usize) {
            *word &= !(1 << (id % 64));
            self.trim();
        }
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get((id / 64) as usize).is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    /// Whether the set has no id.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many ids the set has.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The lowest id.
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }

    /// The ids in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (long, short) = if self.words.len() >= other.words.len() { (self, other) } else { (other, self) };
        let mut words = long.words.clone();
        for (word, more) in words.iter_mut().zip(&short.words) {
            *word |= more;
        }
        Self { words, kind: PhantomData }
    }

    /// Adds every id of `other`.
    pub fn extend(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// The ids in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        let mut set = Self { words, kind: PhantomData };
        set.trim();
        set
    }

    /// The ids in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = self.clone();
        for (word, less) in set.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
        set.trim();
        set
    }

    /// Whether the sets share an id.
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// Whether every id of this set is in the other.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.words.iter().enumerate().all(|(index, word)| word & !other.words.get(index).copied().unwrap_or(0) == 0)
    }

    /// Reads a mask as the kernel prints it in `cpumap` and `local_cpus` (`ff,ffffffff`), or as hwloc writes it in its
    /// XML (`0x000000ff,0xffffffff`): 32-bit hexadecimal words, the highest first.
    ///
    /// hwloc's infinite masks (`0xf...f`) are refused: no machine has infinitely many CPUs.
    pub fn from_mask(text: &str) -> Result<Self, ParseMaskError> {
        let error = || ParseMaskError { text: shown(text), noun: K::NOUN, limit: K::LIMIT };
        let mut set = Self::new();
        let text = text.trim();
        if text.is_empty() {
            return Ok(set);
        }
        for (index, word) in text.rsplit(',').enumerate() {
            let digits = word.strip_prefix("0x").unwrap_or(word);
            // hwloc leaves a word of zeros out altogether ("0xff,,").
            let value = match digits {
                "" if word.is_empty() => 0,
                _ if digits.starts_with('+') => return Err(error()),
                _ => u32::from_str_radix(digits, 16).map_err(|_| error())?,
            };
            for bit in (0..32).filter(|bit| value & (1 << bit) != 0) {
                let id = u32::try_from(index).ok().and_then(|index| index.checked_mul(32)).ok_or_else(error)? + bit;
                if !set.insert(id) {
                    return Err(error());
                }
            }
        }
        Ok(set)
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

impl<K: Kind> FromStr for IdSet<K> {
    type Err = ParseIdSetError;

    /// Parses the kernel's list form. White space around the whole is ignored, as kernel files end in a newline; the
    /// empty text is the empty set. Overlaps are refused: no kernel prints them, and in what a person wrote they are a slip.
    fn from_str(text: &str) -> Result<Self, ParseIdSetError> {
        let mut set = Self::new();
        let lead = text.chars().take_while(|c| c.is_whitespace()).count();
        let text = text.trim();
        if text.is_empty() {
            return Ok(set);
        }
        let mut at = lead + 1;
        for entry in text.split(',') {
            let (first, last) = parse_entry::<K>(entry, at)?;
            for id in first..=last {
                if set.contains(id) {
                    return Err(ParseIdSetError::Overlap { entry: shown(entry), at, noun: K::NOUN });
                }
                set.insert(id);
            }
            at += entry.chars().count() + 1;
        }
        Ok(set)
    }
}

/// A text as an error shows it: a hostile file can hold an entry of any length.
pub(crate) fn shown(text: &str) -> String {
    const LIMIT: usize = 60;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn parse_entry<K: Kind>(entry: &str, at: usize) -> Result<(u32, u32), ParseIdSetError> {
    if entry.is_empty() {
        return Err(ParseIdSetError::EmptyEntry { at });
    }
    let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
    let number = |digits: &str| {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseIdSetError::NotANumber { entry: shown(entry), at, noun: K::NOUN });
        }
        digits.parse::<u32>().ok().filter(|&id| id < K::LIMIT).ok_or_else(|| ParseIdSetError::TooLarge {
            entry: shown(entry),
            at,
            noun: K::NOUN,
            limit: K::LIMIT,
        })
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(ParseIdSetError::Reversed { entry: shown(entry), at, noun: K::NOUN });
    }
    Ok((first, last))
}

impl<K: Kind> fmt::Display for IdSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while ids.peek() == Some(&(last + 1)) {
                last += 1;
                ids.next();
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl<K: Kind> fmt::Debug for IdSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl<K: Kind> FromIterator<u32> for IdSet<K> {
    /// Collects ids; those past the limit are dropped.
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::new();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

impl<K> Clone for IdSet<K> {
    fn clone(&self) -> Self {
        Self { words: self.words.clone(), kind: PhantomData }
    }
}

impl<K: Kind> Default for IdSet<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> PartialEq for IdSet<K> {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl<K> Eq for IdSet<K> {}

impl<K> Hash for IdSet<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words.hash(state);
    }
}

impl<K: Kind> PartialOrd for IdSet<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Kind> Ord for IdSet<K> {
    /// By the ids in ascending order, as lists of numbers compare.
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl<K: Kind> Serialize for IdSet<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: Kind> Deserialize<'de> for IdSet<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
