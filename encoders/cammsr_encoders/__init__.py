"""Encoders: what turns an item's text, image or video into a vector."""

from cammsr_encoders.protocol import (
    API,
    MEDIA_FIELDS,
    BadSample,
    Encoder,
    UnknownOption,
    WeightsUnavailable,
    check_options,
    fingerprint_of,
    whole_number,
)

__all__ = [
    "API",
    "MEDIA_FIELDS",
    "BadSample",
    "Encoder",
    "UnknownOption",
    "WeightsUnavailable",
    "check_options",
    "fingerprint_of",
    "whole_number",
]
