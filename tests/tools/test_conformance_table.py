from __future__ import annotations

from tools.conformance_table import outcomes_of, table_of

PLACE = "tests.index.stores.test_conformance"
REPORT = f"""<testsuites><testsuite>
<testcase classname="{PLACE}.TestFolder" name="test_ties_are_ordered" time="1"/>
<testcase classname="{PLACE}.TestFolder" name="test_filters"><failure message="x">x</failure></testcase>
<testcase classname="{PLACE}.TestLance" name="test_filters"><skipped message="s"/></testcase>
</testsuite></testsuites>"""


def test_a_report_becomes_a_table() -> None:
    assert table_of(outcomes_of(REPORT)).splitlines() == [
        "| case | Folder | Lance |",
        "| --- | --- | --- |",
        "| ties are ordered | passed | not run |",
        "| filters | **failed** | not run |",
    ]
