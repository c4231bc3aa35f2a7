# SPDX-License-Identifier: Apache-2.0
"""vmtide: the agent's configuration from user-data.

Installed as cc_vmtide.py in the folder cloudinit/config of the distribution's
Python packages; the image's cloud.cfg lists `vmtide` among the
cloud_final_modules. It writes /etc/vmtide/agent.conf.d/50-cloud-init.toml
from the key `vmtide`, as SCHEMA says, and has systemd take it up.
"""

import json
import logging
import os

from cloudinit import subp, util

try:
    from cloudinit.settings import PER_INSTANCE
except ImportError:
    PER_INSTANCE = "once-per-instance"

LOG = logging.getLogger(__name__)
FILE = "/etc/vmtide/agent.conf.d/50-cloud-init.toml"
UNIT = "vmtide-agent.service"

SCHEMA = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {
        "vmtide": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "enabled": {
                    "type": "boolean",
                    "default": True,
                    "description": "Whether the agent runs in this guest.",
                },
                "config": {
                    "type": "object",
                    "description": "Keys of agent.toml, sections as objects.",
                    "additionalProperties": {
                        "type": ["string", "integer", "object"],
                        "additionalProperties": {
                            "type": ["string", "integer", "object"],
                            "additionalProperties": {
                                "type": ["string", "integer"]
                            },
                        },
                    },
                },
            },
        }
    },
}

# What cloud-init asks of a module.
meta = {
    "id": "cc_vmtide",
    "name": "vmtide",
    "title": "Configure the vmtide agent",
    "description": "Writes a configuration for vmtide-agent.",
    "distros": ["all"],
    "frequency": PER_INSTANCE,
    "activate_by_schema_keys": ["vmtide"],
    "examples": ["vmtide:\n  config:\n    log_level: debug\n"],
}
frequency = PER_INSTANCE


def lines(config, prefix=""):
    """The configuration as lines of TOML; JSON's strings and integers are TOML's."""
    for key, value in sorted(config.items()):
        if isinstance(value, dict):
            yield from lines(value, prefix + key + ".")
        else:
            yield "%s%s = %s" % (prefix, key, json.dumps(value))


def valid(section):
    """Says what is wrong with the section; the guest boots all the same."""
    try:
        import jsonschema
    except ImportError:
        return isinstance(section, dict)
    try:
        jsonschema.validate({"vmtide": section}, SCHEMA)
    except jsonschema.ValidationError as error:
        LOG.error("vmtide in user-data: %s", error.message)
        return False
    return True


def handle(name, cfg, _cloud, *_older):
    """cloud-init's entry; older ones pass a log and arguments as well."""
    section = cfg.get("vmtide")
    if section is None:
        LOG.debug("%s: no section vmtide", name)
        return
    if not valid(section):
        return
    config = section.get("config", {})
    if config:
        util.ensure_dir(os.path.dirname(FILE), mode=0o755)
        util.write_file(FILE, "\n".join(lines(config)) + "\n", mode=0o644)
    if section.get("enabled", True):
        subp.subp(["systemctl", "enable", UNIT])
        # Does not wait: this runs in a unit that others wait for.
        subp.subp(["systemctl", "restart", "--no-block", UNIT])
    else:
        subp.subp(["systemctl", "disable", "--now", "--no-block", UNIT])
