"""Patches of libraries that make workers start sooner: all of them are here, and nothing else is patched for speed.

Each relies on inner names of a pinned version, does nothing where a name is missing, and is tested against the real
library (tests/integration/launch). What each saves, and when it can go:

    file              saves                                             until
    own_ray           dashboard, log monitor and autoscaler of a        `ray.init` can start without them (Ray 2.60 has
                      private Ray: most of its start                    no option)
    lean_deepspeed    2.2 CPU-seconds and 110 MB per ZeRO worker        DeepSpeed imports its autotuner and Muon only
                      (MLflow and torch's compiler stay out)            where they are used (0.19.8 always does)
    idle_compiler     about as long as importing torch takes            torch's optimizers no longer import
                                                                        torch._dynamo (2.13 does)
    reset             a new process for each training in warm workers   DeepSpeed's `destroy_process_group` resets
                                                                        its own backend (0.19.8 keeps it)
"""
