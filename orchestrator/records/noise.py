"""What Ray, DeepSpeed and torch print of their own accord, told apart from what a person's program says.

Only what these libraries are known to print is noise, and of that nothing that is an error: a line too many is a
nuisance, a line too few is a riddle.
"""

from __future__ import annotations

import re

LEVELS = "DEBUG|INFO|WARNING"
NOISE = re.compile(
    "|".join(
        (
            rf"\[[\d-]+ [\d:,]+\] \[({LEVELS})\] \[[\w.]+\.py:\d+:\w+\]",  # DeepSpeed's logger
            rf"[\d-]+ [\d:,]+\s+({LEVELS}) [\w.]+\.py:\d+ -- ",  # Ray's, in Python
            r"\[[\d-]+ [\d:,.]+ [IWD] \d+ \d+\] ",  # Ray's, in C++
            r"\((raylet|autoscaler|pid=\d+|gcs_server)\b[^)]*\) ",
            r"(\[rank\d+\]:)?\[[IW]\d{4} [\d:.]+ ",  # torch's, in C++
            r"\[Gloo\] Rank \d+ is connected to ",
            r"/usr/bin/ld: cannot find -l(aio|curand|cufile)\b",
            r"collect2: error: ld returned 1 exit status$",
            r"Using \S+ as PyTorch extensions root\.\.\.$",
            r"(Detected CUDA files|Emitting ninja build file|Building extension module|Loading extension module) ?\S*",
            r"Time to load \w+ op: ",
            r"ninja: no work to do\.$",
            r"No modifications detected for re-loaded extension module",
        )
    )
)
WARNING = re.compile(r"\S*/site-packages/(torch|deepspeed|ray)/\S+\.py:\d+: \w*Warning: ")
"""Python shows the line of code that warned below it, indented."""
REPEATED = re.compile(r"\[rank\d+\]: ?")
"""How torch begins each line when it tells an exception a second time."""


class Filter:
    """Goes through one log, line after line."""

    def __init__(self) -> None:
        self._after_warning = False
        self._repeating = False

    def is_noise(self, line: str) -> bool:
        """Whether nobody asked for this line."""
        shows_code = self._after_warning and line.startswith("  ")
        self._after_warning = WARNING.match(line) is not None
        repeated = REPEATED.match(line)
        told_again = line[repeated.end() :] if repeated else ""
        self._repeating = repeated is not None and (self._repeating or told_again.startswith("Traceback (most recent"))
        return shows_code or self._after_warning or self._repeating or NOISE.match(line) is not None
