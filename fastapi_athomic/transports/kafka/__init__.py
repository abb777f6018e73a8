"""`kafka://`: Apache Kafka, and what speaks its protocol, through aiokafka. The only room that imports it.

`KafkaTransport` is the way in; it implements the protocols of `transports.base`, and only their types go in and out.
Member: one member of a group, by aiokafka's group coordinator. Held: a partition whose next batch cannot be read.
Twin: another process with the same `group_instance_id`.

aiokafka lacks some things that we need, so these modules use private parts of it. They are written for aiokafka 0.14,
and `pyproject.toml` allows no other. Before it allows a newer version, check each of these:

- `client`, to find brokers that have moved, to say why none answers, and to connect to one while another is silent:
  `_metadata_update`, `_md_synchronizer`, `_sync_task`, `_get_conn`, `_conns`, `_on_connection_closed` of
  `AIOKafkaClient`, and its connection options (`_ssl_context`, `_sasl_...`). To close those that are
  not in use: `_requests` of `AIOKafkaConnection`.
- `connection`, to read answers where they arrive: `connect`, `send`, `close`, `_handle_frame`, `_requests`,
  `_versions`, `_protocol`, `_writer`, `_last_action`, `_next_correlation_id` of `AIOKafkaConnection`; that its reading
  task closes it when its stream ends; `_closed_fut` of `AIOKafkaProtocol`.
- `client_log`, to calm its log: the names of its loggers; and that each of its tasks begins in a call from here.
- `shared_client`, so that consumers share a client: `_topics`, `_md_update_fut`, `_metadata_max_age_ms` of
  `AIOKafkaClient`, and all that `GroupCoordinator` calls of its client (`MemberClient` has it).
- `group_member`, to commit as the member we are, and to leave within a time: `_commit_lock`, `_do_commit_offsets`,
  `_handle_metadata_update` and the tasks of `GroupCoordinator`. To keep its idle clock right: `_last_fetch_ended` of
  `SubscriptionState`.
- `fetch_wire`, to ask old brokers: what a connection calls of a request (`prepare`, `build_request_header`, `encode`).
- `coordinator`, to send heartbeats by the load, to join again at once, and to give way to a twin: `_heartbeat_routine`,
  `_do_heartbeat`, `_maybe_leave_group`, `_do_rejoin_group`, `_on_join_complete`, `_do_commit_offsets`, `_send_req`,
  `_commit_lock`, `_rejoin_needed_fut`, `_group_instance_id` and its options (`_heartbeat_interval_ms` ...) of
  `GroupCoordinator`; `CoordinatorGroupRebalance`; `fetcher_idle_time` of `SubscriptionState`.
- `mixed_group`, to be two members: `_maybe_leave_group`, `_do_heartbeat`, `_do_commit_offsets`, `_send_req` of
  `GroupCoordinator`; that a copy of one works; that a join reads only `topics` and `active` of a subscription.
- `prefetch`, to leave out what was aborted: `_consume_aborted_up_to`, `_contains_abort_marker`,
  `_aborted_transactions`, `_aborted_producers` of `PartitionRecords`; and the batches of `MemoryRecords`.
- `offsets`: `_maybe_wait_metadata` of `AIOKafkaClient`.
- `producer_clients`, to replace a client that has died: `_sender.sender_task` of `AIOKafkaProducer`.
- `records`, to write header names that are not UTF-8: `_DefaultRecordBatchBuilderPy`.
- `topics`, for versions of requests that aiokafka does not know: `prepare`, `build`, `_topics` of its requests.
- `client_life`, to take apart a client that hangs: everything that can be reached through `__dict__`.
"""
