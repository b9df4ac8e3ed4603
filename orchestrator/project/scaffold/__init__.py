"""The project that `orchestrator init` starts: templates under files/, and how they are filled in and put in place."""
