"""One option after another: from dataclasses, YAML files and the command line to checked values."""
