"""The verbs of the command line: parse, call, render. What they do lies in the other packages."""
