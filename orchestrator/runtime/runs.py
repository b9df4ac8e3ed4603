from orchestrator.tracking.runs import *  # moved: import orchestrator.tracking.runs instead; this line goes away today
