//! What has been said already, so that it is not said again.

/// More different texts than this are an attack on the log.
const MOST: usize = 64;

/// A bounded memory of texts.
#[derive(Debug, Default)]
pub(crate) struct Said(Vec<String>);

impl Said {
    /// Whether `text` is worth saying: it was not said before, and not too much was.
    pub(crate) fn is_new(&mut self, text: &str) -> bool {
        let new = self.0.len() < MOST && !self.0.iter().any(|said| said == text);
        if new {
            self.0.push(text.to_owned());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_a_thing_once_and_only_so_many_things() {
        let mut said = Said::default();
        assert!(said.is_new("a"));
        assert!(!said.is_new("a"));
        assert_eq!((0..1_000).filter(|n| said.is_new(&n.to_string())).count(), MOST - 1);
    }
}
