"""Types of columns that the tables share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, String, Text

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only INTEGER keys
Hash = String(64)  # SHA-256 in hexadecimal
Name = Text().with_variant(Text(collation="C"), "postgresql")  # sorted by code point, as in SQLite
