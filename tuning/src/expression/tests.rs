//! What expressions mean, and what is none.

use super::*;
use proptest::prelude::*;

fn facts(name: &str) -> Option<Value> {
    match name {
        "memory_now_bytes" => Some(Value::Number(768 << 20)),
        "swap_kind" => Some("zram".into()),
        "host.cpu_short" => Some(true.into()),
        _ => None,
    }
}

fn value(text: &str) -> Result<Value, String> {
    let expression: Expression = text.parse().map_err(|error: ParseError| error.to_string())?;
    expression.value(&facts).map_err(|error| error.to_string())
}

#[test]
fn computes_as_it_reads() {
    for (text, expected) in [
        ("1 + 2 * 3", Value::Number(7)),
        ("(1 + 2) * 3 - 10 / 3 % 2", Value::Number(8)),
        ("0 - 5", Value::Number(-5)),
        ("memory_now_bytes / 1MiB", Value::Number(768)),
        ("clamp(sqrt(memory_now_bytes / 64), 1024, 64KiB)", Value::Number(3547)),
        ("min(3, max(1, 2))", Value::Number(2)),
        ("if swap_kind == \"zram\" then 150 else 30", Value::Number(150)),
        ("if not host.cpu_short or 1 > 2 then \"a\" else if 2 >= 2 and 1 != 2 then \"b\" else \"c\"", "b".into()),
        ("if true then 1 else unknown / 0", Value::Number(1)),
        ("order", Value::Number(0)),
    ] {
        match value(text) {
            Ok(found) => assert_eq!(found, expected, "{text}"),
            Err(error) => assert_eq!(error, "this guest does not say order", "{text}"),
        }
    }
}

#[test]
fn names_its_facts() {
    let expression: Expression = "if a then min(b.c, 1) else not d == e".parse().unwrap();
    assert_eq!(expression.facts(), ["a", "b.c", "d", "e"]);
}

#[test]
fn what_has_no_value_says_why() {
    for (text, expected) in [
        ("1 / 0", "1 / 0 has no result"),
        ("9223372036854775807 + 1", "9223372036854775807 + 1 has no result"),
        ("clamp(1, 3, 2)", "clamp[1, 3, 2] has no result"),
        ("sqrt(0 - 1)", "sqrt[-1] has no result"),
        ("swap_kind + 1", "expected a number, found \"zram\""),
        ("if 1 then 2 else 3", "expected a yes or no, found \"1\""),
        ("nothing", "this guest does not say nothing"),
    ] {
        assert_eq!(value(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn what_is_no_expression_says_where() {
    let deep = format!("{}1{}", "(".repeat(40), ")".repeat(40));
    for (text, expected) in [
        ("", "expected a value at \"\""),
        ("1 +", "expected a value at \"\""),
        ("1 2", "expected an operator or the end at \"2\""),
        ("if 1 then 2", "expected else at \"\""),
        ("min(1)", "expected min(a, b), max"),
        ("exec(1)", "expected min, max, clamp or sqrt at \"exec(1)\""),
        ("5MB", "expected KiB, MiB, GiB or TiB after the number at \"5MB\""),
        ("99999999999999999999", "expected a number at"),
        ("\"open", "expected a closing quotation mark"),
        ("then", "expected a value at \"then\""),
        (deep.as_str(), "expected less nesting"),
    ] {
        let error = value(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_ends_in_a_value_or_an_error(text in "[-a-z0-9(), .+*/%<>=\"é]{0,60}") {
        value(&text).ok();
    }
}
