//! The configuration's JSON Schema.

use super::file::File;
use super::policy::is_bytes;
use super::{Bytes, Millicpus, Rate};
use crate::plan::{Planner, Policy};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Of `bridge.toml` and its drop-ins.
pub fn schema() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>()
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An amount of memory: a number of bytes, or as \"768MiB\" with B, KiB, MiB, GiB or TiB.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]{1,9})?\s*([Bb]|[KkMmGgTt][Ii][Bb])?\s*$" },
            ],
        })
    }
}

impl JsonSchema for Millicpus {
    fn schema_name() -> Cow<'static, str> {
        "Millicpus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "CPU time: a number of CPUs, or thousandths of one as \"1500m\".",
            "anyOf": [
                { "type": "number", "minimum": 0, "maximum": 10000 },
                { "type": "string", "pattern": r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$" },
            ],
        })
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes per second: a number, or as \"50MiB/s\" with B, KiB, MiB, GiB or TiB.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]{1,9})?\s*([Bb]|[KkMmGgTt][Ii][Bb])?\s*(/s)?\s*$" },
            ],
        })
    }
}

/// `[policy]`, whose keys are those of [`Policy`].
pub(super) fn policy(generator: &mut SchemaGenerator) -> Schema {
    let bytes = generator.subschema_for::<Bytes>();
    let names = Planner::ALL.map(Planner::name);
    let planner = json_schema!({ "description": "Who plans.", "enum": names, "default": Planner::default().name() });
    let mut properties = serde_json::Map::from_iter([("planner".to_owned(), planner.to_value())]);
    if let Ok(serde_json::Value::Object(numbers)) = serde_json::to_value(Policy::default()) {
        for (key, default) in numbers {
            let mut number =
                if is_bytes(&key) { bytes.clone() } else { json_schema!({ "type": "integer", "minimum": 0 }) };
            number.insert("default".to_owned(), default);
            properties.insert(key, number.to_value());
        }
    }
    json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
}
