//! Text that a guest wrote, made fit for a log, a terminal and bounded memory.

/// The most characters that are kept of anything that a guest calls something.
const MAX_CHARS: usize = 128;

/// `text` on one line and of bounded length: control and direction-changing characters are escaped.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len().min(MAX_CHARS));
    for (at, c) in text.chars().enumerate() {
        if at == MAX_CHARS {
            printable.push('…');
            break;
        }
        if c.is_control() || is_invisible(c) {
            printable.extend(c.escape_unicode());
        } else {
            printable.push(c);
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
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), MAX_CHARS + 1);
    }
}
