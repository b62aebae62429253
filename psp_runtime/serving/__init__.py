"""`psp-serve`, engines over HTTP on Granian and Starlette; `--url`, its client; engines as models of Triton."""
