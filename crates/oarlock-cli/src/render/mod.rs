//! Machines and plans for the eye: text for terminals, SVG for pages.

pub(crate) mod svg;
pub(crate) mod text;
pub(crate) mod words;

#[cfg(test)]
mod samples;
