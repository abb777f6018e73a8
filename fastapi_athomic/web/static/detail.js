// One consumer: its health, charts, partitions, failures and dead letters, and what can be done to it.

import { Charts } from "./charts.js";
import { Facts, NOTHING, Table, count, el, moment, rate, say, seconds } from "./dom.js";
import { inFlightOf } from "./history.js";
import { Letters } from "./letters.js";

const COUNTERS = [
  ["received", "Received"], ["processed", "Processed"], ["failed", "Failed attempts"], ["retried", "Tried again"], ["deferred", "Sent to retry topics"],
  ["dead_lettered", "Dead letters"], ["redriven", "Came back from the DLQ"], ["skipped", "Skipped"], ["redelivered", "Came again"], ["duplicates", "Duplicates"],
  ["parked", "Parked"], ["given_up", "Given up"], ["lost_to_retention", "Lost to retention"], ["commits", "Commits"], ["rebalances", "Rebalances"], ["abandoned", "Abandoned"],
];

/** The reasons as a list. They are sentences, or objects with a sentence and more. */
export function showReasons(list, status, reasons) {
  list.hidden = !reasons.length;
  list.classList.toggle("unhealthy", status === "unhealthy");
  const texts = reasons.map((reason) => typeof reason === "string" ? [reason, ""] : [reason.message,
    [reason.code, reason.since && `since ${moment(reason.since)}`, reason.limit_seconds && `limit ${seconds(reason.limit_seconds)}`].filter(Boolean).join(", ")]);
  const wanted = JSON.stringify(texts);
  if (list.dataset.shown === wanted) return;
  list.dataset.shown = wanted;
  list.replaceChildren(...texts.map(([text, more]) => el("li", {}, text, more ? el("small", {}, more) : null)));
}

export function showBadge(badge, status) {
  badge.className = `badge ${status}`;
  say(badge, status);
}

const samePause = (pause, partition) => pause.topic === partition.topic && (pause.partition === partition.partition || pause.partition === null || pause.partition === undefined);

/** Its state, with what keeps it from handling messages. */
function stateOf(consumer) {
  const paused = consumer.paused ? "paused" : (consumer.pauses ?? []).length ? "paused in part" : "";
  const breaker = consumer.breaker && consumer.breaker.state !== "closed" ? `breaker ${consumer.breaker.state.replace("_", " ")}` : "";
  return [consumer.state, paused, breaker].filter(Boolean).join(", ");
}

/** How much begins now, and what code and settings say where that is something else. */
function limitOf({ rate_limit: limit, settings, members }) {
  const declared = settings?.rate_limit;
  const all = declared && declared.messages_per_second * Math.max(1, members?.length ?? 1);
  const differs = (limit?.messages_per_second ?? null) !== (all ?? null);
  const now = limit ? `${rate(limit.messages_per_second)}/s, ${count(limit.burst)} at once; ${count(limit.waiting)} ${limit.waiting === 1 ? "waits" : "wait"}` : "none";
  return differs ? `${now} (in the code: ${declared ? `${rate(declared.messages_per_second)}/s for each process` : "none"})` : now;
}

function breakerOf({ breaker }) {
  if (!breaker) return "none";
  if (breaker.state === "closed") return breaker.failures ? `closed, ${count(breaker.failures)} failed in a row` : "closed";
  const until = breaker.state === "half_open" ? "one message is tried" : breaker.forced ? "by an operator, until it is closed" : `until ${moment(breaker.until)}`;
  return [`${breaker.state.replace("_", " ")}: ${until}`, `since ${moment(breaker.since)}`, breaker.error].filter(Boolean).join(", ");
}

export class Detail {
  constructor(id, actions, config) {
    this.id = id;
    this.charts = new Charts();
    this.badge = el("span", { class: "badge starting" }, "starting");
    this.state = el("span");
    this.reasons = el("ul", { class: "reasons", "aria-label": "Why not all is well", hidden: true });
    this.pauses = el("ul", { "aria-label": "Pauses", hidden: true });
    this.pausesNote = el("p", { class: "notice", role: "status", hidden: true });
    this.facts = new Facts("Topics", "Group", "Order", "Concurrency", "Rate limit", "Circuit breaker", "In flight", "Longest in the handler", "Longest in the queue", "Last message", "Restarts", "Dead letters go to");
    this.counters = new Facts(...COUNTERS.map(([, label]) => label));
    this.error = el("div");
    this.note = el("p", { class: "quiet", hidden: true });
    this.members = memberTable();
    this.memberPart = el("div", { hidden: true }, el("h3", {}, "Processes"), this.members.element);
    this.partition = { topic: "", partition: "" };
    this.partitions = this.partitionTable(actions);
    this.resume = actions.button("resume", () => ({ id }));
    const target = () => ({ id, values: { topic: this.topics?.[0] ?? "", state: this.breaker === "open" ? "closed" : "open" } });
    this.body = el("div", {}, el("p", {}, this.badge, " ", this.state),
      el("div", { class: "actions" }, actions.button("pause", target), this.resume, ["restart", "concurrency", "rate", "breaker", "seek"].map((name) => actions.button(name, target))),
      this.reasons, this.pauses, this.pausesNote, el("div", { class: "charts" }, this.charts.elements), el("h3", {}, "Consumer"), this.facts.element,
      this.note, this.memberPart, el("h3", {}, "Partitions"), this.partitions.element, this.error,
      config.dead_letters ? new Letters(actions, config, id).element : null,
      el("h3", {}, "Since the consumer was built"), this.counters.element);
  }

  partitionTable(actions) {
    const target = (partition) => () => ({
      id: this.id, scope: { topic: partition.topic, partition: partition.partition }, where: `: ${partition.topic} [${partition.partition}]`,
      values: { topic: partition.topic, partition: partition.partition, offset: partition.committed ?? "" },
    });
    const columns = [
      { title: "Partition", text: (each) => `${each.topic} [${each.partition}]` },
      { title: "Lag", number: true, text: (each) => count(each.lag), by: (each) => each.lag },
      { title: "Oldest", number: true, text: (each) => seconds(each.lag_seconds), by: (each) => each.lag_seconds },
      { title: "In flight", number: true, text: (each) => count(each.in_flight), by: (each) => each.in_flight },
      { title: "Position", number: true, text: (each) => each.position ?? NOTHING },
      { title: "Committed", number: true, text: (each) => each.committed ?? NOTHING },
      { title: "End", number: true, text: (each) => each.end_offset ?? NOTHING },
      { title: "Process", text: (each) => each.member ?? NOTHING },
      { title: "Paused", text: (each) => each.paused ? "paused" : "no", mark: (each) => each.paused },
    ];
    if (["pause", "resume", "seek"].some((name) => actions.known.has(name))) {
      columns.push({ title: "Actions", keep: true, node: (each) => {
        const buttons = ["pause", "resume", "seek"].map((name) => actions.button(name, target(each))).filter(Boolean);
        for (const button of buttons) button.setAttribute("aria-label", `${button.textContent} ${each.topic} [${each.partition}]`);
        return el("div", { class: "actions" }, buttons);
      }, refresh: (cell, each) => {
        const resume = cell.querySelector("[data-action=resume]");
        if (resume) resume.hidden = !each.own;
      } });
    }
    return new Table("Partitions", columns, (each) => `${each.topic}/${each.partition}`);
  }

  update(consumer, history) {
    this.topics = consumer.topics.length ? consumer.topics : [...new Set(consumer.assignment.map((each) => each.topic))];
    showBadge(this.badge, consumer.health.status);
    const pauses = consumer.pauses ?? [];
    this.breaker = consumer.breaker?.state;
    say(this.state, stateOf(consumer));
    showReasons(this.reasons, consumer.health.status, consumer.health.reasons);
    this.showPauses(pauses);
    this.pausesNote.hidden = !consumer.pauses_note;
    say(this.pausesNote, consumer.pauses_note ? `Pauses: ${consumer.pauses_note}.` : "");
    if (this.resume) this.resume.hidden = !consumer.paused && !pauses.length;
    this.charts.update(history);
    this.facts.update({
      "Topics": consumer.pattern ?? consumer.topics.join(", "), "Group": consumer.group_id, "Order": consumer.ordering, "Concurrency": consumer.concurrency,
      "Rate limit": limitOf(consumer), "Circuit breaker": breakerOf(consumer),
      "In flight": count(inFlightOf(consumer)), "Longest in the handler": seconds(consumer.oldest_in_handler_seconds ?? consumer.oldest_in_flight_seconds), "Longest in the queue": seconds(consumer.oldest_in_queue_seconds), "Last message": moment(consumer.last_message_at),
      "Restarts": consumer.last_restart_reason ? `${consumer.restarts}: ${consumer.last_restart_reason}` : consumer.restarts, "Dead letters go to": consumer.dlq_topics.join(", ") || NOTHING,
    });
    this.partitions.update(consumer.assignment.map((each) => {
      const own = pauses.some((pause) => samePause(pause, each));
      return { ...each, own, paused: each.paused || own };
    }));
    const members = consumer.members ?? [];
    this.memberPart.hidden = members.length < 2;
    this.members.update(members);
    this.note.hidden = !consumer.scope_note;
    say(this.note, consumer.scope_note ?? "");
    this.counters.update(Object.fromEntries(COUNTERS.map(([name, label]) => [label, count(consumer.counters[name])])));
    this.showError(consumer.last_error);
  }

  showPauses(pauses) {
    const texts = pauses.map((pause) => [
      `${pause.topic ? `${pause.topic}${pause.partition === null || pause.partition === undefined ? "" : ` [${pause.partition}]`}` : "All of it"} is paused by ${pause.actor ?? "somebody"}`,
      pause.since && `since ${moment(pause.since)}`, pause.until && `until ${moment(pause.until)}`, pause.reason && `reason: ${pause.reason}`].filter(Boolean).join(", "));
    this.pauses.hidden = !texts.length;
    if (this.pauses.dataset.shown === JSON.stringify(texts)) return;
    this.pauses.dataset.shown = JSON.stringify(texts);
    this.pauses.replaceChildren(...texts.map((text) => el("li", {}, text)));
  }

  showError(error) {
    const wanted = JSON.stringify(error ?? null);
    if (this.error.dataset.shown === wanted) return;
    this.error.dataset.shown = wanted;
    this.error.replaceChildren(...error ? [el("h3", {}, "Last failure"),
      el("pre", { tabindex: "0", "aria-label": "What it says" }, `${error.type}${error.message ? `: ${error.message}` : ""}`),
      el("p", { class: "quiet" }, `${error.topic} [${error.partition}] at ${error.offset}, step ${error.stage}, ${moment(error.at)}; ${count(error.count)} failed attempts so far`)] : []);
  }
}

function memberTable() {
  return new Table("Processes", [
    { title: "Process", text: (each) => each.instance_id },
    { title: "Health", keep: true, node: () => el("span"), refresh: (cell, each) => showBadge(cell.firstChild, each.health) },
    { title: "State", text: (each) => each.paused ? `${each.state}, paused` : each.state },
    { title: "Partitions", number: true, text: (each) => count(each.partitions) },
    { title: "Concurrency", number: true, text: (each) => count(each.concurrency) },
    { title: "Seen at", keep: true, text: (each) => moment(each.seen_at) },
    { title: "Other settings", text: (each) => each.differs.join(", ") || "none" },
  ], (each) => `${each.instance_id}/${each.pid}`);
}

/** The table of all consumers. `source()`: where they are. */
export function consumerTable(source) {
  const history = (consumer) => source().of(consumer.id);
  return new Table("Consumers", [
    { title: "Consumer", node: (each) => el("a", { href: `#/consumer/${encodeURIComponent(each.id)}` }, each.id) },
    { title: "Health", keep: true, node: () => el("span"), refresh: (cell, each) => showBadge(cell.firstChild, each.health.status) },
    { title: "State", text: stateOf },
    { title: "Processed/s", number: true, text: (each) => rate(history(each).now("processed")), by: (each) => history(each).now("processed") },
    { title: "Lag", number: true, text: (each) => count(history(each).now("lag")), by: (each) => history(each).now("lag") },
    { title: "Oldest", number: true, text: (each) => seconds(history(each).now("age")), by: (each) => history(each).now("age") },
    { title: "In flight", number: true, text: (each) => count(inFlightOf(each)), by: inFlightOf },
    { title: "Failed", number: true, text: (each) => count(each.counters.failed), by: (each) => each.counters.failed },
    { title: "Dead letters", number: true, text: (each) => count(each.counters.dead_lettered), by: (each) => each.counters.dead_lettered, mark: (each) => each.counters.dead_lettered },
    { title: "Partitions", number: true, text: (each) => count(each.assignment.length), by: (each) => each.assignment.length },
  ], (each) => each.id);
}
