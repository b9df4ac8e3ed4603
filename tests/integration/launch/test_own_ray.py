"""A Ray without helpers: it runs actors, and nothing of it stays."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, logging, psutil, ray, ray._private.node, ray._private.utils
from orchestrator.runtime.fast_start import own_ray

before = [getattr(ray._private.node.Node, name) for name in own_ray.UNNEEDED]
with own_ray.lean():
    ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=2**28, logging_level=logging.ERROR)
answer = ray.get(ray.remote(lambda: 42).remote())
commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
helpers = [word for word in ("dashboard.py", "log_monitor.py", "monitor.py") if any(word in line for line in commands)]
restored = before == [getattr(ray._private.node.Node, name) for name in own_ray.UNNEEDED]
restored = restored and ray._private.utils.get_dashboard_dependency_error() is None
print(json.dumps({"answer": answer, "helpers": helpers, "restored": restored}))
"""


def test_a_lean_ray_works_without_helpers() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"answer": 42, "helpers": [], "restored": True}
