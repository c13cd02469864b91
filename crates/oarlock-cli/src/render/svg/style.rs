//! The style sheet: one class for each thing drawn, in light and in dark.
//!
//! Plain classes and no CSS variables: not every program that shows pictures knows variables.

use std::fmt::Write as _;

/// The colours of ranks, repeated when there are more ranks. All carry dark letters, on a light page and on a dark one.
const RANKS: [&str; 12] = [
    "#5aa9e6", "#f4a259", "#63c074", "#ef7f86", "#ab95f5", "#e3c64a", "#4cc5c2", "#f192c4", "#c79a72", "#a3cc4c",
    "#93adc4", "#d794f0",
];

/// Property, class, and its value in light and in dark.
const PAINTS: [(&str, &str, &str, &str); 33] = [
    ("fill", "page", "#ffffff", "#10151c"),
    ("fill", "title", "#18202b", "#f0f4f9"),
    ("fill", "strong", "#18202b", "#f0f4f9"),
    ("fill", "plain", "#2b3644", "#d5dde7"),
    ("fill", "small", "#5b6878", "#98a6b7"),
    ("fill", "mono", "#4a5666", "#a9b6c5"),
    ("fill", "alarm", "#a24b00", "#ffb35c"),
    ("fill", "package", "#f3f5f8", "#161d26"),
    ("stroke", "package", "#d3dae3", "#2a3543"),
    ("fill", "node", "#ffffff", "#1c2530"),
    ("stroke", "node", "#b7c2cf", "#3b495a"),
    ("fill", "apart", "#f7f5fb", "#1b1a26"),
    ("stroke", "apart", "#cfc6e3", "#423c5e"),
    ("fill", "lost", "#fff5e8", "#2b2014"),
    ("stroke", "lost", "#d9822b", "#c27a30"),
    ("fill", "cache", "#edf0f4", "#25303c"),
    ("fill", "idle", "#c9d2dd", "#445264"),
    ("fill", "shared", "#b9aad6", "#8f7fc0"),
    ("fill", "room", "#e6eaf0", "#2a3542"),
    ("fill", "memory", "#9aacc1", "#5f7389"),
    ("stroke", "unsized", "#9aacc1", "#5f7389"),
    ("fill", "gpu", "#e8f5ea", "#1b3024"),
    ("stroke", "gpu", "#6fae7d", "#4d8a60"),
    ("stroke", "gpu-lost", "#d9822b", "#c27a30"),
    ("fill", "gpu-lost", "#fffaf3", "#33261a"),
    ("fill", "heat0", "#dfe8f2", "#1f2c3a"),
    ("fill", "heat1", "#c9dbee", "#27405a"),
    ("fill", "heat2", "#a9c8e8", "#2f567d"),
    ("fill", "heat3", "#86b3e0", "#3a6fa3"),
    ("fill", "heat4", "#649dd6", "#4a88c5"),
    ("stroke", "rule", "#d3dae3", "#2a3543"),
    ("fill", "number", "#0d1219", "#0d1219"),
    ("fill", "cell", "#18202b", "#f0f4f9"),
];

/// Shapes of letters and lines, the same in light and in dark.
const SHAPES: &str = "\
.oarlock text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}\
.oarlock .title{font-size:22px;font-weight:600}\
.oarlock .strong{font-size:13px;font-weight:600}\
.oarlock .plain{font-size:12px}\
.oarlock .small{font-size:11px}\
.oarlock .mono,.oarlock .number,.oarlock .cell{font-family:ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace}\
.oarlock .mono{font-size:11px}\
.oarlock .number{font-size:10px;font-weight:700;text-anchor:middle}\
.oarlock .cell{font-size:10px;text-anchor:middle;font-weight:400}\
.oarlock .end{text-anchor:end}\
.oarlock .lost,.oarlock .gpu-lost,.oarlock .unsized{stroke-dasharray:4 3}\
.oarlock .unsized,.oarlock .rule{fill:none}";

/// The class of a rank's colour.
pub(super) fn rank_class(rank: usize) -> String {
    format!("r{}", rank % RANKS.len())
}

/// The whole sheet.
pub(super) fn sheet() -> String {
    let mut sheet = SHAPES.to_owned();
    for (index, color) in RANKS.iter().enumerate() {
        let _ = write!(sheet, ".oarlock .r{index}{{fill:{color}}}");
    }
    let mut dark = String::new();
    for (property, class, in_light, in_dark) in PAINTS {
        let _ = write!(sheet, ".oarlock .{class}{{{property}:{in_light}}}");
        let _ = write!(dark, ".oarlock .{class}{{{property}:{in_dark}}}");
    }
    let _ = write!(sheet, "@media (prefers-color-scheme:dark){{{dark}}}");
    sheet
}
