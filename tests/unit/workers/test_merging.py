from __future__ import annotations

from fastapi_athomic.workers.merging import merged

ONE = """# HELP a_total As
# TYPE a_total counter
a_total{instance_id="1"} 1.0
# HELP h Hs
# TYPE h histogram
h_bucket{instance_id="1",le="+Inf"} 2.0
h_count{instance_id="1"} 2.0
"""
OTHER = """# HELP a_total As
# TYPE a_total counter
a_total{instance_id="2"} 5.0
# HELP h Hs
# TYPE h histogram
h_bucket{instance_id="2",le="+Inf"} 3.0
h_count{instance_id="2"} 3.0
# HELP only Of the other
# TYPE only gauge
only 1.0
"""


def test_samples_of_a_metric_stand_together_below_one_head() -> None:
    assert merged([ONE, OTHER]) == (
        "# HELP a_total As\n# TYPE a_total counter\n"
        'a_total{instance_id="1"} 1.0\na_total{instance_id="2"} 5.0\n'
        "# HELP h Hs\n# TYPE h histogram\n"
        'h_bucket{instance_id="1",le="+Inf"} 2.0\nh_count{instance_id="1"} 2.0\n'
        'h_bucket{instance_id="2",le="+Inf"} 3.0\nh_count{instance_id="2"} 3.0\n'
        "# HELP only Of the other\n# TYPE only gauge\nonly 1.0\n"
    )


def test_prometheus_reads_it() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(merged([ONE, OTHER]))}
    assert [sample.value for sample in families["a"].samples] == [1.0, 5.0]
    assert families["h"].type == "histogram"
    assert len(families["h"].samples) == 4


def test_nothing_is_nothing() -> None:
    assert merged([]) == ""
