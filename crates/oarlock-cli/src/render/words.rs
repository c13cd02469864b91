//! Quantities and names as people read them, the same in text and in pictures.

use oarlock_core::machine::{Machine, Node};

/// A name from outside, fit for one line of a terminal or a picture: control characters and the marks that turn the
/// direction of text become a visible stand-in, and at most `most` characters stay.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).map(|c| if is_unsafe(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// Characters that move a terminal's cursor, reorder a line, or that XML 1.0 has no form for.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

/// A size of memory in binary units, from MiB: `512 MiB`, `503.5 GiB`, `2 TiB`.
pub(super) fn memory(mib: u64) -> String {
    let (unit, size) = match mib {
        0..1024 => return format!("{mib} MiB"),
        1024..0x0010_0000 => ("GiB", mib as f64 / 1024.0),
        _ => ("TiB", mib as f64 / 1_048_576.0),
    };
    let text = format!("{size:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A node's memory, or the sign for a source that does not tell.
pub(super) fn node_memory(node: &Node) -> String {
    match node.memory_mb {
        None => "?".to_owned(),
        Some(0) => "none".to_owned(),
        Some(mib) => memory(mib),
    }
}

/// `1 core`, `48 cores`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The machine in one line: what it has, and what its source does not tell.
pub(super) fn summary(machine: &Machine) -> String {
    let mut parts = Vec::new();
    let mut silent = Vec::new();
    let groups = [
        ("package", machine.packages.as_ref().map(Vec::len)),
        ("node", Some(machine.nodes.iter().filter(|node| !node.gpu_memory).count())),
        ("L3 group", machine.l3.as_ref().map(Vec::len)),
        ("core", machine.cores.as_ref().map(Vec::len)),
        ("cpu", Some(machine.cpus().len())),
        ("gpu", Some(machine.gpus.len())),
    ];
    for (noun, number) in groups {
        match number {
            Some(number) => parts.push(count(number, noun)),
            None => silent.push(format!("{noun}s")),
        }
    }
    let mut models = machine.gpus.iter().map(|gpu| gpu.model.as_deref());
    if let Some(Some(model)) = models.next()
        && models.all(|other| other == Some(model))
        && let Some(gpus) = parts.last_mut()
    {
        *gpus = format!("{gpus} ({})", printable(model, 60));
    }
    let apart = machine.nodes.iter().filter(|node| node.gpu_memory).count();
    if apart > 0 {
        parts.push(count(apart, "GPU memory node"));
    }
    if machine.distances.is_none() && machine.nodes.len() > 1 {
        silent.push("distances".to_owned());
    }
    let stated = parts.join(", ");
    if silent.is_empty() { stated } else { format!("{stated}; not stated: {}", silent.join(", ")) }
}

/// Words in lines of at most so many letters; a longer word is cut.
pub(super) fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word = printable(word, letters);
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_their_unit_where_people_expect_it_and_drop_an_empty_fraction() {
        for (mib, text) in [
            (0, "0 MiB"),
            (1023, "1023 MiB"),
            (1024, "1 GiB"),
            (1536, "1.5 GiB"),
            (515_584, "503.5 GiB"),
            (1_048_576, "1 TiB"),
            (3_145_728, "3 TiB"),
        ] {
            assert_eq!(memory(mib), text);
        }
    }

    #[test]
    fn words_are_laid_in_lines_and_none_is_longer_than_allowed() {
        assert_eq!(wrapped("one two  three fourteen five", 8), ["one two", "three", "fourteen", "five"]);
        assert_eq!(wrapped("abcdefghij k", 4), ["abc…", "k"]);
        assert!(wrapped(" ", 4).is_empty());
    }

    #[test]
    fn names_from_outside_can_neither_move_the_cursor_nor_turn_the_text_around() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{202e}c", 99), "a\u{fffd}[31m\u{fffd}b\u{fffd}c");
        assert_eq!(printable("abcdef", 4), "abc…");
        assert_eq!(printable("abcd", 4), "abcd");
    }
}
