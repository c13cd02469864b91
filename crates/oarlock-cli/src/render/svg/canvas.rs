//! Shapes and words at coordinates, over the `svg` library, which escapes them.

use std::fmt::Write as _;

use svg::Node as _;
use svg::node::Text;
use svg::node::element::{Element, Group, Path, Rectangle, Title};

/// The shares of the font size that a letter of the sans-serif face takes on average at most, plain and bold, and that
/// one of the monospaced face always takes. There are no font metrics here, so room is kept for the widest usual face.
const SANS: f64 = 0.58;
const BOLD: f64 = 0.66;
const MONO: f64 = 0.61;

/// A rectangle on the page, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A width and a height, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) fn at(x: f64, y: f64, size: Size) -> Self {
        Self { x, y, width: size.width, height: size.height }
    }

    pub(super) fn right(&self) -> f64 {
        self.x + self.width
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }

    pub(super) fn inset(&self, by: f64) -> Self {
        Self { x: self.x + by, y: self.y + by, width: self.width - 2.0 * by, height: self.height - 2.0 * by }
    }

    /// The `index`-th of `of` equal slices, side by side.
    pub(super) fn slice(&self, index: usize, of: usize) -> Self {
        let width = self.width / of as f64;
        Self { x: self.x + width * index as f64, width, ..*self }
    }

    /// The `index`-th of `of` equal slices, one below the other.
    pub(super) fn band(&self, index: usize, of: usize) -> Self {
        let height = self.height / of as f64;
        Self { y: self.y + height * index as f64, height, ..*self }
    }
}

/// A face and size of letters; the style sheet has a class of the same name for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    Title,
    Strong,
    Plain,
    Small,
    Mono,
    /// A rank's number on its colour, centred.
    Number,
}

impl Face {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Strong => "strong",
            Self::Plain => "plain",
            Self::Small => "small",
            Self::Mono => "mono",
            Self::Number => "number",
        }
    }

    fn letter(self) -> f64 {
        match self {
            Self::Title => 22.0 * BOLD,
            Self::Strong => 13.0 * BOLD,
            Self::Plain => 12.0 * SANS,
            Self::Small => 11.0 * SANS,
            Self::Mono => 11.0 * MONO,
            Self::Number => 10.0 * MONO,
        }
    }

    /// The width to keep for this many letters.
    pub(super) fn width(self, letters: usize) -> f64 {
        self.letter() * letters as f64
    }

    /// How many letters are sure to fit.
    pub(super) fn fit(self, width: f64) -> usize {
        (width / self.letter()).floor().max(1.0) as usize
    }
}

/// A part of the picture under construction.
#[derive(Debug)]
pub(super) struct Canvas {
    group: Group,
}

impl Canvas {
    pub(super) fn new() -> Self {
        Self { group: Group::new() }
    }

    pub(super) fn finish(self) -> Group {
        self.group
    }

    pub(super) fn rect(&mut self, class: &str, area: Area, radius: f64) {
        self.group.append(
            Rectangle::new()
                .set("class", class)
                .set("x", px(area.x))
                .set("y", px(area.y))
                .set("width", px(area.width))
                .set("height", px(area.height))
                .set("rx", px(radius)),
        );
    }

    /// Words from a baseline point. `text` is made fit by the caller.
    pub(super) fn text(&mut self, face: Face, class: &str, x: f64, y: f64, text: &str) {
        self.words(&format!("{} {class}", face.class()), x, y, text);
    }

    /// Words that end at a baseline point.
    pub(super) fn text_to(&mut self, face: Face, class: &str, x: f64, y: f64, text: &str) {
        self.words(&format!("{} end {class}", face.class()), x, y, text);
    }

    fn words(&mut self, classes: &str, x: f64, y: f64, text: &str) {
        // Not the library's own text element: it puts the words on a line of their own.
        let mut words = Element::new("text");
        words.assign("class", classes.trim_end());
        words.assign("x", px(x));
        words.assign("y", px(y));
        words.append(Text::new(text));
        self.group.append(words);
    }

    /// All these areas as one shape of one class: a thousand cores make a dozen elements.
    pub(super) fn areas(&mut self, class: &str, areas: &[Area]) {
        if areas.is_empty() {
            return;
        }
        let mut data = String::new();
        for Area { x, y, width, height } in areas {
            let _ = write!(data, "M{} {}h{}v{}h{}z", px(*x), px(*y), px(*width), px(*height), px(-width));
        }
        self.group.append(Path::new().set("class", class).set("d", data));
    }

    /// A part that shows `title` where the pointer rests on it.
    pub(super) fn titled(&mut self, title: &str, draw: impl FnOnce(&mut Canvas)) {
        let mut part = Canvas { group: Group::new().add(Title::new(title)) };
        draw(&mut part);
        self.group.append(part.group);
    }
}

/// A coordinate with no more digits than an eye can see.
pub(super) fn px(number: f64) -> String {
    let text = format!("{number:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}
