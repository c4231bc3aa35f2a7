//! Text that a guest wrote, made fit for a log, a terminal and bounded memory.

/// The most characters that are kept of anything that a guest calls something.
const NAME_CHARS: usize = 128;
/// The most that are kept of what a guest tells: an agent's events have no more.
const MESSAGE_CHARS: usize = 400;

/// A name on one line and of bounded length: control and direction-changing characters are escaped.
pub(super) fn printable(name: &str) -> String {
    held(name, NAME_CHARS)
}

/// The same for a sentence or two.
pub(super) fn printable_message(message: &str) -> String {
    held(message, MESSAGE_CHARS)
}

/// What is kept is counted as it is written: an escape is many characters.
fn held(text: &str, most_chars: usize) -> String {
    let mut printable = String::with_capacity(text.len().min(most_chars));
    let mut left = most_chars;
    for c in text.chars() {
        let escape = (c.is_control() || is_invisible(c)).then(|| c.escape_unicode());
        let Some(rest) = left.checked_sub(escape.as_ref().map_or(1, ExactSizeIterator::len)) else {
            printable.push('…');
            break;
        };
        left = rest;
        match escape {
            Some(escape) => printable.extend(escape),
            None => printable.push(c),
        }
    }
    printable
}

/// Separators that end a line, marks that reverse or hide what follows.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_grows() {
        assert_eq!(printable("6.12.9+deb13-cloud-amd64"), "6.12.9+deb13-cloud-amd64");
        assert_eq!(printable("a\x1b[2J\nb\u{202e}c"), "a\\u{1b}[2J\\u{a}b\\u{202e}c");
        assert_eq!(printable("größer"), "größer");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), NAME_CHARS + 1);
        assert_eq!(printable_message(&"x".repeat(1000)).chars().count(), MESSAGE_CHARS + 1);
        let bytes = printable_message(&"\u{202e}".repeat(1000)).len();
        assert!((MESSAGE_CHARS - 8..MESSAGE_CHARS + 4).contains(&bytes), "{bytes} bytes of escapes");
        assert_eq!(printable_message("\x1b]0;title\x07"), "\\u{1b}]0;title\\u{7}");
    }
}
