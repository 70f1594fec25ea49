"""Pages of long lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Float, Integer, MetaData, String, Table, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from api.paging import Paged, cut_page, decode_cursor, encode_cursor, page_of
from api.problems import Problem

ROWS = Table("rows", MetaData(), Column("id", String, primary_key=True), Column("at", Float), Column("n", Integer))


@given(times=st.lists(st.integers(0, 5), max_size=40), limit=st.integers(1, 7), descending=st.booleans())
def test_pages(times: list[int], limit: int, descending: bool) -> None:
    """All pages together are the whole list, in order, each row once, however many rows share a time."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        ROWS.create(connection)
        for number, at in enumerate(times):
            connection.execute(insert(ROWS).values(id=f"{number:03}", at=at, n=number))
        found, page = [], Paged(limit=limit)
        while True:
            query = page_of(select(ROWS), (ROWS.c.at, ROWS.c.id), page, descending=descending)
            rows, cursor = cut_page(connection.execute(query).all(), page, lambda row: (row.at, row.id))
            assert len(rows) <= limit
            found += [(row.at, row.id) for row in rows]
            if not cursor:
                break
            page = Paged(limit=limit, cursor=cursor)
    engine.dispose()
    assert found == sorted(((float(at), f"{n:03}") for n, at in enumerate(times)), reverse=descending)


@pytest.mark.parametrize("cursor", ["x", "!!!", "W10", "bnVsbA", encode_cursor(("a", "b", "c")), "é"])
def test_no_cursor(cursor: str) -> None:
    """What is no cursor of the list is refused, and nothing else happens."""
    with pytest.raises(Problem) as caught:
        decode_cursor(cursor, (float, str))
    assert (caught.value.status, caught.value.code) == (400, "invalid-cursor")
