"""Hardware metrics of a node."""

from __future__ import annotations

import threading
import time

from orchestrator.runtime.worker import system
from orchestrator.runtime.worker.system import SystemMonitor, parse_gpus


def test_samples_come_until_it_is_stopped_and_once_then():
    seen, enough = [], threading.Event()

    def emit(metrics):
        seen.append(metrics)
        if len(seen) >= 2:
            enough.set()

    monitor = SystemMonitor(emit, 0.02, 3)
    monitor.start()
    assert enough.wait(10)
    monitor.stop()
    count = len(seen)
    time.sleep(0.1)
    assert len(seen) == count
    for name in ("cpu_utilization_percent", "memory_used_gb", "disk_used_percent", "network_sent_mb"):
        assert seen[0][f"system/node-3/{name}"] >= 0
    assert seen[0]["system/node-3/process_memory_gb"] > 0


def test_stop_does_not_wait_for_the_interval():
    seen = []
    monitor = SystemMonitor(seen.append, 3600, 0)
    monitor.start()
    begun = time.monotonic()
    monitor.stop()
    assert time.monotonic() - begun < 2
    assert len(seen) == 1


def test_a_failing_emit_ends_measuring_only(caplog):
    def emit(metrics):
        raise OSError("disk full")

    monitor = SystemMonitor(emit, 0.01, 0)
    monitor.start()
    monitor._thread.join(5)
    monitor.stop()
    assert "disk full" in caplog.text


def test_nvidia_smi_table():
    table = "0, 57, 1024, 81559, 214.3, 41\n1, 0, 3, 81559, [N/A], 30\n"
    found = parse_gpus(table)
    assert found["gpu-0_utilization_percent"] == 57
    assert round(found["gpu-0_memory_used_gb"], 3) == 1.074
    assert found["gpu-0_power_watts"] == 214.3
    assert "gpu-1_power_watts" not in found
    assert found["gpu-1_temperature_celsius"] == 30


def test_no_gpu_no_gpu_metrics(monkeypatch):
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    assert system.gpus() == {}
