"""The Tasks we ship, with their models and data: `orchestrator.jobs.regression` and its neighbours.

Installed from a wheel, the modules are beside this file. In a checkout, and in an editable install of one, they are in
`jobs/` at its top, where readers look for them. Top-level `jobs` is not ours: many teams have a folder of that name.
"""

from __future__ import annotations

from orchestrator import paths

__path__ = [str(paths.shipped_jobs())]
