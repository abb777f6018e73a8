"""Our consumers measured beside their peers: `scripts/bench`, or `scripts/bench f1 --broker mock` for one figure.

- `figures`: F1 to F10 and E6, who is measured at what, and the goals; `__main__` runs all
- `everyday`: E1, E2, E4 and E5, a service with many handlers and little to do; `deploys`: E3, rolling restarts
- `runs`: how contenders are run; `builds` has this package as it was at another revision, to run beside it
- `workload`: the messages that everybody consumes, and how they get to a broker
- `report`: tables and charts of what was measured, into `results/`

What `figures` starts in processes of their own, one for each run:

- `contenders`: F1 to F4 and F7, consumers of ours, written by hand, and of the peers
- `http_beside`: F5 and E6, routes beside a backlog; `http_apps` are the services, `http_load` asks their routes
- `ordered`: F6, an ordered consumer on Redis
- `everyday_apps`: E1, E2, E4 and E5, the services; `deploy_apps`: E3's; `paced` writes what they get
- `soak`: F8, memory over millions of messages
- `payloads`: F10, what a payload costs; `payload_avro` and `payload_protobuf` have the cases beside confluent-kafka

F9, the time of an import, is all in `figures`. docs/performance.md says which goals were missed, and why.
"""
