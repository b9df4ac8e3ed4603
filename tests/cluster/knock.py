"""Knocks at every door without a key: `python knock.py HOST PORT...` prints what each port answered, as JSON.

A port that speaks HTTP answers with a status; one that speaks gRPC with one word for each service of Ray that we ask for.
"""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.request

import grpc

METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/KVGet",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
TIMEOUT_S = 2.0


def web(host: str, port: int) -> int | None:
    """The status of a plain request; None where nobody speaks HTTP."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/api/v0/nodes", timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return None


def rpc(host: str, port: int) -> dict[str, str]:
    """What each method says to a call without a token; those that are not there are left out."""
    said = {}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
                said[method] = "OK"
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    said[method] = error.code().name
    return said


if __name__ == "__main__":
    host, *ports = sys.argv[1:]
    answers = {port: web(host, int(port)) for port in ports}
    print(json.dumps({port: answer or rpc(host, int(port)) for port, answer in answers.items()}))
