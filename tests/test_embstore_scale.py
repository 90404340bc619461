"""An export on a Ray cluster of two raylets, one killed half-way, is row for row that of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from embedding_stores import run_export, save_backbone, write_recordings

from embstore import EmbeddingStore
from embstore.plan import ExportOptions
from embstore.scale import run_ray
from embstore.verify import verify
from trunkline.errors import DependencyError

ROOT = Path(__file__).parent.parent
HAS_RAY = find_spec("ray") is not None

# A process of its own, so that nothing of Ray outlives it: a head without processors, two nodes with one each.
CLUSTER = """
import json, os, sys
os.makedirs("/tmp/ray", exist_ok=True)
from ray.cluster_utils import Cluster
from embstore.plan import ExportOptions
from embstore.exporter import Exporter
from embstore.scale import run_ray
options = ExportOptions(**json.loads(sys.argv[1]))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
numbers = range(len(Exporter(options).plan.shards))
seen = []
try:
    for report in run_ray(options, numbers, cluster.address):
        seen.append(report.number)
        if len(seen) == 2:
            cluster.remove_node(nodes[0], allow_graceful=False)
finally:
    cluster.shutdown()
print(json.dumps(sorted(seen)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'trunkline[scale]'")
def test_a_cluster_that_loses_a_node_exports_what_one_process_does(tmp_path, capsys):
    backbone = save_backbone(tmp_path / "backbone")
    manifest = write_recordings(tmp_path / "recordings")
    words = ["--manifest", manifest, "--backbone", backbone, "--frames", "--shard-hours", "0.0005"]
    assert run_export(capsys, *words, "--out", tmp_path / "local")[0] == 0
    options = {
        "manifest": str(manifest), "backbone": str(backbone), "store": str(tmp_path / "ray"),
        "frames": True, "context": "4,6,2", "shard_hours": 0.0005,
    }  # fmt: skip
    home = tmp_path / "home"  # Ray writes a token there
    home.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(home)}
    environment |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, json.dumps(options)],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    shards = json.loads(done.stdout.splitlines()[-1])
    assert shards == list(range(len(shards))) and len(shards) > 4
    local, ray = EmbeddingStore.open(tmp_path / "local"), EmbeddingStore.open(tmp_path / "ray")
    assert verify(ray) == []
    for table in ("pooled", "segments", "frames"):
        rows = [_rows(store, table) for store in (local, ray)]
        assert rows[0] == rows[1] and rows[0]


def _rows(store: EmbeddingStore, table: str) -> dict[tuple[object, ...], bytes]:
    names = (
        "call_id",
        "cut_id",
        "channel",
        {"frames": "frame", "segments": "seg"}.get(table, "pool"),
    )
    found = {}
    for batch in store.scan(table):
        vectors = batch.column("v").flatten().to_numpy().reshape(batch.num_rows, -1)
        keys = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        for key, vector in zip(keys, vectors, strict=True):
            assert key not in found
            found[key] = vector.tobytes()
    return found


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed here")
def test_without_ray_the_way_to_install_it_is_told(tmp_path):
    with pytest.raises(DependencyError, match=r"pip install 'trunkline\[scale\]'"):
        next(run_ray(ExportOptions("a", "b", "c"), [0], "auto"))
