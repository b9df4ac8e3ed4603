"""Every route of MLflow's server behind basic-auth, from its own routers: prints [[method, path], ...] as JSON.

Run in a folder of its own, with the settings of a server in the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any


def routes() -> Iterator[tuple[str, str]]:
    """Those of FastAPI, and those of the Flask application below it; what varies in a path is filled in."""
    import mlflow.server
    from fastapi.routing import iter_route_contexts
    from mlflow.server import auth
    from starlette.routing import Mount

    application: Any = auth.create_app(mlflow.server.app)
    native = [route for route in application.routes if not isinstance(route, Mount)]
    for route in iter_route_contexts(native):
        for method in sorted(route.methods - {"HEAD", "OPTIONS"}):
            yield method, re.sub(r"{[^}]*}", "1", route.path)
    for rule in mlflow.server.app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, re.sub(r"<[^>]*>", "1", rule.rule)


if __name__ == "__main__":
    print(json.dumps(sorted(set(routes()))))
