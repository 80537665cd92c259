"""What trunkline costs: CPU time per request and per streamed event, memory per open stream, time to start.

`make bench` (`python -m bench`) measures them and prints one table; docs/performance.md explains the figures. CPU time
of the process, not wall time, is the figure of merit: it survives a noisy shared machine.
"""
