#!/usr/bin/env bash
# Starts a command in the workspace: the environment of torch first, then ROS and the package.
set -e
workspace="${WORKSPACE:-/ws}"
source "$workspace/venv/bin/activate"
source "$workspace/install/setup.bash"
exec "$@"
