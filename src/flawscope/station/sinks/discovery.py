"""What Home Assistant wants to know of a product: one device with its entities, in one retained message
(home-assistant.io/integrations/mqtt, "Device discovery payload", since 2024.11)."""

from __future__ import annotations

from typing import Any

from flawscope._version import __version__
from flawscope.station.sinks.topics import OFFLINE, ONLINE, Topics


def device_topic(prefix: str, sender: str, product_id: int) -> str:
    """Letters, digits and underscores alone: dots and dashes of a product's name could make two the same."""
    return f"{prefix}/device/{device_id(sender, product_id)}/config"


def device_id(sender: str, product_id: int) -> str:
    return f"flawscope_{sender}_{product_id}"


def birth_topic(prefix: str) -> str:
    """Home Assistant says `online` here when it has started."""
    return f"{prefix}/status"


def device(topics: Topics, product: str, sender: str, product_id: int, address: str | None) -> dict[str, Any]:
    """The message.

    Args:
        sender: 12 digits of the station, which stay when it is called something else.
        address: of the station's pages.
    """
    name = device_id(sender, product_id)
    there = {
        "availability_topic": topics.status,
        "payload_available": ONLINE,
        "payload_not_available": OFFLINE,
    }

    def one(key: str, platform: str, words: str, **more: Any) -> dict[str, Any]:
        return {"platform": platform, "unique_id": f"{name}_{key}", "name": words, **more}

    def value(key: str) -> dict[str, Any]:
        return {"value_template": f"{{{{ value_json.{key} }}}}", **there}

    exact, share = {"suggested_display_precision": 3}, {"unit_of_measurement": "%"}
    counted = {"state_class": "total_increasing"}
    measured = {"state_class": "measurement"}
    diagnostic = {"entity_category": "diagnostic"}
    components = {
        "anomalous": one(
            "anomalous",
            "binary_sensor",
            "Anomalous part",
            device_class="problem",
            value_template="{{ 'ON' if value_json.decision == 'anomalous' else 'OFF' }}",
            json_attributes_topic=topics.state(product),
            **there,
        ),
        "score": one("score", "sensor", "Score", **measured, **exact, **value("score")),
        "p_value": one("p_value", "sensor", "p-value", **measured, **exact, **value("p_value")),
        "severity": one("severity", "sensor", "Severity", **measured, **exact, **value("severity")),
        "inspections": one("inspections", "sensor", "Inspections", **counted, **value("inspections")),
        "anomalous_share": one(
            "anomalous_share",
            "sensor",
            "Anomalous in 24 hours",
            **measured,
            **share,
            suggested_display_precision=2,
            value_template="{{ (100 * value_json.share_24_hours) if value_json.share_24_hours is not none "
            "else none }}",
            **there,
        ),
        "version": one("version", "sensor", "Model version", **diagnostic, **value("version")),
        "connection": one(
            "connection",
            "binary_sensor",
            "Station",
            device_class="connectivity",
            state_topic=topics.status,
            payload_on=ONLINE,
            payload_off=OFFLINE,
            **diagnostic,
        ),
        "problem": one(
            "problem",
            "binary_sensor",
            "Station problem",
            device_class="problem",
            state_topic=topics.problem,
            value_template="{{ 'ON' if value_json.count > 0 else 'OFF' }}",
            json_attributes_topic=topics.problem,
            **diagnostic,
            **there,
        ),
    }
    about = {
        "identifiers": [name],
        "name": f"{product} ({topics.station})",
        "manufacturer": "flawscope",
        "model": "Visual inspection",
        "sw_version": __version__,
    }
    return {
        "device": about if address is None else {**about, "configuration_url": f"{address}/{product}/live"},
        "origin": {"name": "flawscope", "sw_version": __version__},
        "state_topic": topics.state(product),
        "qos": 1,
        "components": components,
    }
