"""New inspections in one statement of PostgreSQL, which is a transaction by itself.

With several, waiting for the answers takes as long as what they do; BEGIN and COMMIT have answers, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from flawscope.station.store.schema import HOUR, inspections, pictures

# Rows are locked in one order everywhere, so that two stations never wait for each other in a circle. What is
# given under a key that another one takes at this moment has no number in the end.
RECORD = """
WITH given AS MATERIALIZED (
    SELECT one.*, CASE WHEN one.key IS NOT NULL THEN (
        SELECT there.id FROM inspections there
        WHERE there.product_id = one.product_id AND there.key = one.key
    ) END AS known
    FROM ROWS FROM (json_to_recordset(%(rows)s::json) AS ({types})) WITH ORDINALITY
        AS one ({names}, place)
), fresh AS MATERIALIZED (
    SELECT given.*, nextval(pg_get_serial_sequence('inspections', 'id')) AS id
    FROM given WHERE known IS NULL ORDER BY place
), kept AS (
    INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at)
    SELECT DISTINCT ON (product_id, picture) product_id, picture, suffix, bytes, width, height, at
    FROM fresh ORDER BY product_id, picture, place DESC
    ON CONFLICT (product_id, hash) DO UPDATE SET removed_at = NULL
), new AS (
    INSERT INTO inspections (id, {taken})
    SELECT id, {taken} FROM fresh ORDER BY product_id, key, place
    ON CONFLICT (product_id, key) DO NOTHING
    RETURNING id, product_id, version_id, at, anomalous, score
), counted AS (
    INSERT INTO hours AS old (product_id, version_id, hour, inspected, anomalous, score_sum, score_min,
        score_max, reviewed, defects, false_alarms, misses)
    SELECT product_id, version_id, at / {hour}, count(*), count(*) FILTER (WHERE anomalous), sum(score),
        min(score), max(score), 0, 0, 0, 0
    FROM new GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (product_id, version_id, hour) DO UPDATE SET
        inspected = old.inspected + excluded.inspected, anomalous = old.anomalous + excluded.anomalous,
        score_sum = old.score_sum + excluded.score_sum, score_min = least(old.score_min, excluded.score_min),
        score_max = greatest(old.score_max, excluded.score_max)
)
SELECT coalesce(given.known, new.id), given.known IS NULL
FROM given LEFT JOIN fresh USING (place) LEFT JOIN new ON new.id = fresh.id
ORDER BY place
"""


def record_at_once(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[tuple[int | None, bool]]:
    """Number of each, and whether it is new; None: see above.

    Args:
        rows: with the columns of both tables, the same in each.
    """
    given = {"rows": json.dumps(rows)}  # one value: arrays take longer to put together
    statement = _statement(tuple(rows[0]))
    return [(number, bool(new)) for number, new in connection.exec_driver_sql(statement, given)]


@cache
def _statement(names: tuple[str, ...]) -> str:
    columns = {**pictures.c, **inspections.c}
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = {name: columns[name].type.compile(dialect) for name in names}
    return RECORD.format(
        types=", ".join(f"{name} {kind}" for name, kind in types.items()),
        names=", ".join(names),
        taken=", ".join(name for name in names if name in inspections.c),
        hour=HOUR,
    )
