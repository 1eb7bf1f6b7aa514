"""Jobs of this machine: a runner that starts the rendered scripts with bash, within limits."""
