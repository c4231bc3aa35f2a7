//! What changed between two JSON values, as a JSON merge patch (RFC 7396). Pure.
//!
//! A patch says "gone" by `null`, so values are compared without their null members: an absent member and a null
//! one are the same to serde too. Arrays are replaced as a whole.

use serde_json::{Map, Value};

/// `value` without members that are null, at any depth of objects.
pub(super) fn strip(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(strip);
    }
}

/// What makes `new` of `old`; `None` when nothing does. Both stripped.
pub(super) fn diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, new) in after {
        let change = before.get(key).map_or_else(|| Some(new.clone()), |old| diff(old, new));
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Applies `patch` to `target`.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            members.remove(&key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_what_changed_is_in_a_patch() {
        let old = json!({"need": 5, "demand": {"fresh": {"floor": 1}}, "list": [1, 2]});
        let new = json!({"need": 6, "demand": {"stale": {"floor": 1}}, "list": [1, 2]});
        let patch = diff(&old, &new).unwrap();
        assert_eq!(patch, json!({"need": 6, "demand": {"fresh": null, "stale": {"floor": 1}}}));
        assert_eq!(diff(&new, &new), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<u64>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from), Just(Value::Null)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_new_of_the_old(mut old in value(), mut new in value()) {
            // A record is an object.
            (old, new) = (json!({"root": old}), json!({"root": new}));
            strip(&mut old);
            strip(&mut new);
            let mut patched = old.clone();
            if let Some(patch) = diff(&old, &new) {
                merge(&mut patched, patch);
            }
            prop_assert_eq!(patched, new);
        }
    }
}
