"""`kafka://`: Apache Kafka, and what speaks its protocol, through aiokafka. The only room that imports it.

`KafkaTransport` is the way in; it implements the protocols of `transports.base`, and only their types go in and out.
Member: aiokafka's consumer, as one member of a group. Held: a partition whose next batch cannot be read. Twin: another
process with the same `group_instance_id`.

aiokafka lacks some things that we need, so these modules use private parts of it. They are written for aiokafka 0.14,
and `pyproject.toml` allows no other. Before it allows a newer version, check each of these:

- `client`, to find brokers that have moved, and to say why none answers: `_metadata_update`, `_md_synchronizer`,
  `_sync_task`, `_get_conn`, `_conns` of `AIOKafkaClient`, and its connection options (`_ssl_context`, `_sasl_...`).
- `client_log`, to calm its log: the names of its loggers; and that each of its tasks begins in a call from here.
- `group_member`, to put our own parts into `AIOKafkaConsumer`: its `_client`, `_subscription`, `_fetcher`,
  `_coordinator`, `_loop`. To keep the idle clock right, and to fetch nothing before `seek`: `_fetch_count`,
  `_last_fetch_ended`, `_assigned_state` of `SubscriptionState`. To commit as the member we are: `_commit_lock`,
  `_do_commit_offsets` of `GroupCoordinator`.
- `coordinator`, to send heartbeats by the load, to join again at once, and to give way to a twin: `_heartbeat_routine`,
  `_do_heartbeat`, `_maybe_leave_group`, `_do_rejoin_group`, `_on_join_complete`, `_do_commit_offsets`, `_send_req`,
  `_rejoin_needed_fut`, `_group_instance_id` and its options (`_heartbeat_interval_ms` ...) of `GroupCoordinator`;
  `CoordinatorGroupRebalance`; `fetcher_idle_time` of `SubscriptionState`.
- `prefetch`, to make `RawMessage`s of records: `_assignment`, `_partition_records` of `FetchResult`, and most of
  `PartitionRecords`.
- `fetcher`, to hold one partition alone, and to ask for more in time: `_records`, `_fetch_waiters`, `_notify`,
  `_wait_consume_future`, `_subscriptions`, `_isolation_level`, `_set_error`, `_get_actions_per_node`,
  `_select_read_replica` of `Fetcher`, and `_max_wait_ms` of its requests.
- `producer_clients`, to replace a client that has died: `_sender.sender_task` of `AIOKafkaProducer`.
- `records`, to write header names that are not UTF-8: `_DefaultRecordBatchBuilderPy`.
- `topics`, for versions of requests that aiokafka does not know: `prepare`, `build`, `_topics` of its requests.
- `client_life`, to take apart a client that hangs: everything that can be reached through `__dict__`.
"""
