"""Torch's compiler stays away as long as nobody needs it, and is the real one for whoever does."""

from __future__ import annotations

import json
import subprocess
import sys

BEGIN = """
import json, os, sys, traceback
import torch
from orchestrator.runtime.fast_start import idle_compiler

assert "torch._dynamo" not in sys.modules
model = torch.nn.Linear(3, 1)

def step():
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())

def carry_out(lines):
    with idle_compiler.out_of_the_way():
        step()
        assert not hasattr(sys.modules.get("torch._dynamo"), "__file__")
        exec(lines, globals())
    step()

for name, lines in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        try:
            carry_out(lines)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""
CASES = {
    "nobody needs it": "pass",
    "parts of it": """
from torch._dynamo.utils import counters
import torch._dynamo.utils, torch._dynamo.external_utils
assert torch._dynamo.utils.counters is counters is sys.modules['torch._dynamo.utils'].counters
assert sys.modules['torch._dynamo'].external_utils is torch._dynamo.external_utils
""",
    "DeepSpeed's ZeRO": """
from orchestrator.runtime.fast_start import lean_deepspeed
from deepspeed.runtime.zero.muon.original_muon import zeropower_via_newtonschulz5
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
assert "torch._inductor" not in sys.modules
assert not hasattr(sys.modules["torch._dynamo"], "__file__")
""",
    "something is compiled": "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2",
    "its settings": "assert torch._dynamo.config.recompile_limit; assert torch._dynamo.__file__",
    "a decorator": """
@torch.compiler.disable
def left(x):
    return x
assert left(3) == 3
assert torch._dynamo is sys.modules['torch._dynamo'] and torch._dynamo.__file__
""",
}


def test_it_gives_way_to_whoever_needs_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", BEGIN, json.dumps(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
