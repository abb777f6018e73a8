// What was seen of each consumer, for the charts: the server keeps nothing.

const KEPT_SECONDS = 900;
const RATE_SECONDS = 5; // over so long a rate is taken: what people can read
const GROUP_SECONDS = 30; // likewise over several processes, of which others tell their counters every 5 to 15 s
export const SHOWN_SECONDS = 300;
export const VALUES = ["processed", "lag", "age", "failed", "lettered"];

/** Values of one consumer, or of all together, over time. */
export class History {
  constructor(group = false) {
    this.over = group ? GROUP_SECONDS : RATE_SECONDS;
    this.times = []; // in seconds since 1970
    this.series = Object.fromEntries(VALUES.map((name) => [name, []]));
    this.samples = []; // {time, counters} of the last seconds, for the rates
  }

  /** `counters`: how many since the start; what is shown of them is the rate over the last seconds. */
  add(time, counters, lag, age, interval) {
    const last = this.samples.at(-1);
    if (last && time <= last.time) return;
    if (last && (time - last.time > 10 * interval + this.over || counters.processed < last.counters.processed)) {
      this.push(last.time + interval, {}); // nothing is known of the time between, or the count began anew
      this.samples = [];
    }
    while (this.samples.length > 1 && this.samples[1].time <= time - this.over) this.samples.shift();
    const first = this.samples[0];
    const per = (name) => first ? Math.max(0, counters[name] - first.counters[name]) / (time - first.time) : null;
    this.samples.push({ time, counters });
    this.push(time, { processed: per("processed"), failed: per("failed"), lettered: per("dead_lettered"), lag, age });
  }

  push(time, values) {
    this.times.push(time);
    for (const name of VALUES) this.series[name].push(values[name] ?? null);
    while (this.times[0] < time - KEPT_SECONDS) {
      this.times.shift();
      for (const name of VALUES) this.series[name].shift();
    }
  }

  now(name) {
    return this.series[name].at(-1) ?? null;
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const known = (values) => values.filter((value) => value !== null && value !== undefined);

export const lagOf = (consumer) => {
  const lags = known(consumer.assignment.map((partition) => partition.lag));
  return lags.length ? sum(lags) : null;
};

export const ageOf = (consumer) => {
  const ages = known(consumer.assignment.map((partition) => partition.lag_seconds));
  return ages.length ? Math.max(...ages) : null;
};

export const inFlightOf = (consumer) => sum(consumer.assignment.map((partition) => partition.in_flight));

const SEVERITY = ["healthy", "degraded", "starting", "unhealthy"];
const worst = (statuses) => SEVERITY[Math.max(0, ...statuses.map((status) => SEVERITY.indexOf(status)))];

/** Whether a snapshot speaks for several processes, as far as they share a state store. */
export const isOfGroup = (snapshot) => snapshot.consumers.some((consumer) => consumer.scope === "group" && consumer.members.length > 1);

/** The names of all processes that it speaks for. */
export const membersOf = (snapshot) => [...new Set(snapshot.consumers.flatMap((consumer) => (consumer.members ?? []).map((member) => member.instance_id)))];

/** One process, or all that share a state store: the newest snapshot, and what was seen before. */
export class Source {
  constructor(group) {
    this.group = group;
    this.histories = new Map();
    this.total = new History(group);
    this.snapshot = null;
  }

  add(snapshot, interval) {
    this.snapshot = snapshot;
    const time = Date.parse(snapshot.time) / 1000, consumers = snapshot.consumers;
    for (const consumer of consumers) this.of(consumer.id).add(time, consumer.counters, lagOf(consumer), ageOf(consumer), interval);
    const counters = Object.fromEntries(["processed", "failed", "dead_lettered"].map((name) => [name, sum(consumers.map((each) => each.counters[name]))]));
    const lags = known(consumers.map(lagOf)), ages = known(consumers.map(ageOf));
    this.status = worst([snapshot.health.status, ...consumers.map((each) => each.health.status)]);
    this.total.add(time, counters, lags.length ? sum(lags) : null, ages.length ? Math.max(...ages) : null, interval);
  }

  of(id) {
    if (!this.histories.has(id)) this.histories.set(id, new History(this.group));
    return this.histories.get(id);
  }
}
