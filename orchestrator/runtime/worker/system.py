"""What a node's hardware does while it trains, sampled by a thread of one worker per node."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import traceback
from collections.abc import Callable

GB = 1e9
MB = 1e6
NVIDIA_QUERY = ("index", "utilization.gpu", "memory.used", "memory.total", "power.draw", "temperature.gpu")
NVIDIA_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class SystemMonitor:
    """Calls `emit` with the node's metrics every `interval_s`, first after one interval, last at `stop`."""

    def __init__(
        self, emit: Callable[[dict[str, float]], None], interval_s: float, node_rank: int, disk: str = "."
    ) -> None:
        self._emit = emit
        self._interval = interval_s
        self._prefix = f"system/node-{node_rank}"
        self._disk = disk
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._network_start = (0, 0)

    def start(self) -> None:
        """Begin sampling."""
        import psutil

        psutil.cpu_percent()  # its first answer is always 0: use is measured since the call before
        self._network_start = _network_bytes()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end; waits for a sample that is being taken, no longer than 2 s."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None

    def sample(self) -> dict[str, float]:
        """The metrics of this moment."""
        import psutil

        memory = psutil.virtual_memory()
        received, sent = _network_bytes()
        values = {
            "cpu_utilization_percent": psutil.cpu_percent(),
            "memory_used_gb": (memory.total - memory.available) / GB,
            "memory_used_percent": memory.percent,
            "disk_used_percent": psutil.disk_usage(self._disk).percent,
            "network_received_mb": (received - self._network_start[0]) / MB,
            "network_sent_mb": (sent - self._network_start[1]) / MB,
            "process_memory_gb": psutil.Process().memory_info().rss / GB,
            **gpus(),
        }
        return {f"{self._prefix}/{name}": float(value) for name, value in values.items()}

    def _run(self) -> None:
        """One sample per interval. Measuring must never end training: a thread that fails says so and ends itself."""
        try:
            while not self._stop.wait(self._interval):
                self._emit(self.sample())
            self._emit(self.sample())
        except Exception:  # noqa: BLE001  the thread's boundary: told with its traceback
            log.warning("System metrics end here:\n%s", traceback.format_exc())


def gpus() -> dict[str, float]:
    """What nvidia-smi says of each GPU; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        result = subprocess.run(
            [program, f"--query-gpu={','.join(NVIDIA_QUERY)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_gpus(result.stdout) if result.returncode == 0 else {}


def parse_gpus(table: str) -> dict[str, float]:
    """Metrics from nvidia-smi's lines of NVIDIA_QUERY; values it does not have ([N/A]) are left out."""
    found: dict[str, float] = {}
    for line in table.strip().splitlines():
        index, use, used_mib, total_mib, power, temperature = (_number(cell) for cell in line.split(","))
        if index is None:
            continue
        values = {
            "utilization_percent": use,
            "memory_used_gb": None if used_mib is None else used_mib * 2**20 / GB,
            "memory_used_percent": 100 * used_mib / total_mib if used_mib is not None and total_mib else None,
            "power_watts": power,
            "temperature_celsius": temperature,
        }
        found.update({f"gpu-{index:.0f}_{name}": value for name, value in values.items() if value is not None})
    return found


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _network_bytes() -> tuple[int, int]:
    import psutil

    counters = psutil.net_io_counters()
    return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)
