//! Text to tree, by recursive descent; how deep is bounded.

use super::{Comparison, Function, Operation, Tree, Value};

/// Deeper nesting is no expression that a person wrote.
const MOST_DEPTH: usize = 32;
const UNITS: [(&str, i64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const KEYWORDS: [&str; 6] = ["if", "then", "else", "and", "or", "not"];
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::MoreOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at {rest:?}")]
pub struct ParseError {
    expected: &'static str,
    /// From where it is not understood, shortened.
    rest: String,
}

/// What is left of the text.
struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

pub(super) fn parse(text: &str) -> Result<Tree, ParseError> {
    let mut parser = Parser { rest: text.trim_start(), depth: 0 };
    let tree = parser.expression()?;
    if parser.rest.is_empty() { Ok(tree) } else { Err(parser.expected("an operator or the end")) }
}

impl<'a> Parser<'a> {
    fn expected(&self, expected: &'static str) -> ParseError {
        ParseError { expected, rest: self.rest.chars().take(20).collect() }
    }

    /// Takes `symbol`, when it comes next.
    fn takes(&mut self, symbol: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(symbol) else { return false };
        let is_word = symbol.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_word && rest.starts_with(in_name) {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    fn needs(&mut self, symbol: &str, expected: &'static str) -> Result<(), ParseError> {
        if self.takes(symbol) { Ok(()) } else { Err(self.expected(expected)) }
    }

    /// Takes as many characters as `belongs` says.
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn expression(&mut self) -> Result<Tree, ParseError> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(self.expected("less nesting"));
        }
        let tree = if self.takes("if") {
            let condition = self.expression()?;
            self.needs("then", "then")?;
            let then = self.expression()?;
            self.needs("else", "else")?;
            Tree::If(Box::new([condition, then, self.expression()?]))
        } else {
            self.disjunction()?
        };
        self.depth -= 1;
        Ok(tree)
    }

    fn disjunction(&mut self) -> Result<Tree, ParseError> {
        let mut left = self.conjunction()?;
        while self.takes("or") {
            left = Tree::Or(Box::new([left, self.conjunction()?]));
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Result<Tree, ParseError> {
        let mut left = self.negation()?;
        while self.takes("and") {
            left = Tree::And(Box::new([left, self.negation()?]));
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Tree, ParseError> {
        if self.takes("not") { Ok(Tree::Not(Box::new(self.comparison()?))) } else { self.comparison() }
    }

    fn comparison(&mut self) -> Result<Tree, ParseError> {
        let left = self.sum()?;
        match COMPARISONS.into_iter().find(|(symbol, _)| self.takes(symbol)) {
            Some((_, comparison)) => Ok(Tree::Compare(comparison, Box::new([left, self.sum()?]))),
            None => Ok(left),
        }
    }

    fn sum(&mut self) -> Result<Tree, ParseError> {
        let mut left = self.product()?;
        loop {
            let operation = if self.takes("+") {
                Operation::Add
            } else if self.takes("-") {
                Operation::Subtract
            } else {
                return Ok(left);
            };
            left = Tree::Compute(operation, Box::new([left, self.product()?]));
        }
    }

    fn product(&mut self) -> Result<Tree, ParseError> {
        let mut left = self.atom()?;
        loop {
            let operation = if self.takes("*") {
                Operation::Multiply
            } else if self.takes("/") {
                Operation::Divide
            } else if self.takes("%") {
                Operation::Remainder
            } else {
                return Ok(left);
            };
            left = Tree::Compute(operation, Box::new([left, self.atom()?]));
        }
    }

    fn atom(&mut self) -> Result<Tree, ParseError> {
        if self.takes("(") {
            let tree = self.expression()?;
            self.needs(")", "a closing parenthesis")?;
            return Ok(tree);
        }
        match self.rest.chars().next() {
            Some('"') => self.word(),
            Some('0'..='9') => self.number(),
            Some(c) if in_name(c) => self.name(),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self) -> Result<Tree, ParseError> {
        let Some((word, rest)) = self.rest[1..].split_once('"') else {
            return Err(self.expected("a closing quotation mark"));
        };
        self.rest = rest.trim_start();
        Ok(Tree::Literal(word.into()))
    }

    fn number(&mut self) -> Result<Tree, ParseError> {
        let before = Parser { rest: self.rest, depth: 0 };
        let digits: i64 = self.take_while(|c| c.is_ascii_digit()).parse().map_err(|_| before.expected("a number"))?;
        let unit = self.take_while(in_name);
        let factor = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) => *factor,
            None if unit.is_empty() => 1,
            None => return Err(before.expected("KiB, MiB, GiB or TiB after the number")),
        };
        self.rest = self.rest.trim_start();
        let number = digits.checked_mul(factor).ok_or_else(|| before.expected("a number of 64 bits"))?;
        Ok(Tree::Literal(Value::Number(number)))
    }

    /// A fact, a function, or yes and no.
    fn name(&mut self) -> Result<Tree, ParseError> {
        let before = Parser { rest: self.rest, depth: 0 };
        let name = self.take_while(in_name);
        self.rest = self.rest.trim_start();
        if !self.takes("(") {
            return match name {
                "true" => Ok(Tree::Literal(true.into())),
                "false" => Ok(Tree::Literal(false.into())),
                _ if KEYWORDS.contains(&name) => Err(before.expected("a value")),
                _ => Ok(Tree::Fact(name.to_owned())),
            };
        }
        let function = match name {
            "min" => Function::Min,
            "max" => Function::Max,
            "clamp" => Function::Clamp,
            "sqrt" => Function::Sqrt,
            _ => return Err(before.expected("min, max, clamp or sqrt")),
        };
        let mut arguments = vec![self.expression()?];
        while self.takes(",") {
            arguments.push(self.expression()?);
        }
        self.needs(")", "a comma or a closing parenthesis")?;
        if arguments.len() == function.arguments() {
            Ok(Tree::Call(function, arguments))
        } else {
            Err(before.expected("min(a, b), max(a, b), clamp(x, least, most) or sqrt(x)"))
        }
    }
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}
