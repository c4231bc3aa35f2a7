//! The catalogue's expressions: small, and total. There are no loops and no recursion, so each ends.
//!
//! ```text
//! if A then B else C                    the branch that is not taken is not looked at
//! or, and, not                          yes or no
//! == != < <= > >=                       numbers; == and != anything
//! + - * / %                             64-bit integers; an overflow is an error, and so is division by zero
//! min(a, b) max(a, b) clamp(x, least, most) sqrt(x)
//! 42  64MiB  "word"  true  false  fact.name
//! ```

mod parse;

use super::value::Value;
pub use parse::ParseError;
use std::{fmt, str::FromStr};

/// An expression, and the text it was written as.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    tree: Tree,
}

#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Literal(Value),
    Fact(String),
    If(Box<[Tree; 3]>),
    Or(Box<[Tree; 2]>),
    And(Box<[Tree; 2]>),
    Not(Box<Tree>),
    Compare(Comparison, Box<[Tree; 2]>),
    Compute(Operation, Box<[Tree; 2]>),
    Call(Function, Vec<Tree>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Min,
    Max,
    Clamp,
    Sqrt,
}

/// Why an expression has no value in this guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// The guest does not say.
    #[error("this guest does not say {0}")]
    Unknown(String),
    /// A word where a number belongs, say.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Overflow, division by zero, the root of less than zero, a range upside down.
    #[error("{0} has no result")]
    Arithmetic(String),
}

impl Expression {
    /// Its value, with facts from `fact`.
    ///
    /// # Errors
    /// [`EvaluateError`] for a fact that `fact` does not know, and for arithmetic without a result.
    pub fn value(&self, fact: &dyn Fn(&str) -> Option<Value>) -> Result<Value, EvaluateError> {
        self.tree.value(fact)
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// As for [`Expression::value`], and when it is no yes or no.
    pub fn holds(&self, fact: &dyn Fn(&str) -> Option<Value>) -> Result<bool, EvaluateError> {
        self.tree.truth(fact)
    }

    /// The facts that it names.
    pub fn facts(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.tree.collect_facts(&mut names);
        names
    }
}

impl Tree {
    fn value(&self, fact: &dyn Fn(&str) -> Option<Value>) -> Result<Value, EvaluateError> {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Fact(name) => fact(name).ok_or_else(|| EvaluateError::Unknown(name.clone()))?,
            Self::If(parts) => {
                let [condition, then, otherwise] = parts.as_ref();
                return if condition.truth(fact)? { then.value(fact) } else { otherwise.value(fact) };
            }
            Self::Or(sides) => (sides[0].truth(fact)? || sides[1].truth(fact)?).into(),
            Self::And(sides) => (sides[0].truth(fact)? && sides[1].truth(fact)?).into(),
            Self::Not(side) => (!side.truth(fact)?).into(),
            Self::Compare(comparison, sides) => comparison.holds(&sides[0], &sides[1], fact)?.into(),
            Self::Compute(operation, sides) => {
                Value::Number(operation.of(sides[0].number(fact)?, sides[1].number(fact)?)?)
            }
            Self::Call(function, arguments) => {
                let numbers = arguments.iter().map(|argument| argument.number(fact)).collect::<Result<Vec<_>, _>>()?;
                Value::Number(function.of(&numbers)?)
            }
        })
    }

    fn number(&self, fact: &dyn Fn(&str) -> Option<Value>) -> Result<i64, EvaluateError> {
        match self.value(fact)? {
            Value::Number(number) => Ok(number),
            other => Err(EvaluateError::Kind { expected: "a number", found: format!("{:?}", other.to_string()) }),
        }
    }

    fn truth(&self, fact: &dyn Fn(&str) -> Option<Value>) -> Result<bool, EvaluateError> {
        match self.value(fact)? {
            Value::Truth(truth) => Ok(truth),
            other => Err(EvaluateError::Kind { expected: "a yes or no", found: format!("{:?}", other.to_string()) }),
        }
    }

    fn collect_facts<'a>(&'a self, names: &mut Vec<&'a str>) {
        let parts: &[Self] = match self {
            Self::Literal(_) => &[],
            Self::Fact(name) => return names.push(name),
            Self::If(parts) => parts.as_ref(),
            Self::Or(sides) | Self::And(sides) | Self::Compare(_, sides) | Self::Compute(_, sides) => sides.as_ref(),
            Self::Not(side) => std::slice::from_ref(side),
            Self::Call(_, arguments) => arguments,
        };
        for part in parts {
            part.collect_facts(names);
        }
    }
}

impl Comparison {
    fn holds(self, left: &Tree, right: &Tree, fact: &dyn Fn(&str) -> Option<Value>) -> Result<bool, EvaluateError> {
        Ok(match self {
            Self::Equal => left.value(fact)? == right.value(fact)?,
            Self::Unequal => left.value(fact)? != right.value(fact)?,
            Self::Less => left.number(fact)? < right.number(fact)?,
            Self::LessOrEqual => left.number(fact)? <= right.number(fact)?,
            Self::More => left.number(fact)? > right.number(fact)?,
            Self::MoreOrEqual => left.number(fact)? >= right.number(fact)?,
        })
    }
}

impl Operation {
    fn of(self, left: i64, right: i64) -> Result<i64, EvaluateError> {
        let (sign, result) = match self {
            Self::Add => ('+', left.checked_add(right)),
            Self::Subtract => ('-', left.checked_sub(right)),
            Self::Multiply => ('*', left.checked_mul(right)),
            Self::Divide => ('/', left.checked_div(right)),
            Self::Remainder => ('%', left.checked_rem(right)),
        };
        result.ok_or_else(|| EvaluateError::Arithmetic(format!("{left} {sign} {right}")))
    }
}

impl Function {
    fn of(self, arguments: &[i64]) -> Result<i64, EvaluateError> {
        match (self, arguments) {
            (Self::Min, &[a, b]) => Ok(a.min(b)),
            (Self::Max, &[a, b]) => Ok(a.max(b)),
            (Self::Clamp, &[x, least, most]) if least <= most => Ok(x.clamp(least, most)),
            (Self::Sqrt, &[x]) if x >= 0 => Ok(x.isqrt()),
            _ => Err(EvaluateError::Arithmetic(format!("{self:?}{arguments:?}").to_lowercase())),
        }
    }

    fn arguments(self) -> usize {
        match self {
            Self::Min | Self::Max => 2,
            Self::Clamp => 3,
            Self::Sqrt => 1,
        }
    }
}

impl FromStr for Expression {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(Self { text: text.to_owned(), tree: parse::parse(text)? })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests;
