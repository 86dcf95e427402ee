"""Writes each script of a GitHub workflow to a file of its own, for shellcheck.

    workflow_scripts.py WORKFLOW DIRECTORY
"""

import pathlib
import sys

import ruamel.yaml

workflow = ruamel.yaml.YAML(typ="safe").load(pathlib.Path(sys.argv[1]))
scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
assert scripts, "no step runs anything"
for number, script in enumerate(scripts):
    pathlib.Path(sys.argv[2], f"step-{number}.sh").write_text("#!/usr/bin/env bash\nset -eo pipefail\n" + script)
