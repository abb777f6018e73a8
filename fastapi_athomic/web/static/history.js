// What was seen of each consumer, for the charts: the server keeps nothing.

const KEPT_SECONDS = 900;
export const SHOWN_SECONDS = 300;
export const VALUES = ["processed", "lag", "age", "failed", "lettered"];

/** Values of one consumer, or of all together, over time. */
export class History {
  constructor() {
    this.times = []; // in seconds since 1970
    this.series = Object.fromEntries(VALUES.map((name) => [name, []]));
    this.last = null;
  }

  /** `counters`: how many since the start; what is shown of them is the rate. */
  add(time, counters, lag, age, interval) {
    const last = this.last, passed = last ? time - last.time : 0;
    if (last && passed <= 0) return;
    this.last = { time, counters };
    if (!last) return this.push(time, { processed: null, failed: null, lettered: null, lag, age });
    if (passed > 10 * interval + 5) this.push(last.time + interval, {}); // nothing is known of the time between
    const per = (name) => counters[name] < last.counters[name] ? null : (counters[name] - last.counters[name]) / passed;
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

  /** The mean of the last seconds: what people can read. */
  recent(name, seconds = 5) {
    const from = (this.times.at(-1) ?? 0) - seconds;
    const values = this.series[name].filter((value, place) => this.times[place] > from && value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
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

/** One process: its newest snapshot, and what was seen before. */
export class Process {
  constructor() {
    this.histories = new Map();
    this.total = new History();
    this.snapshot = null;
  }

  add(snapshot, interval) {
    this.snapshot = snapshot;
    const time = Date.parse(snapshot.time) / 1000, consumers = snapshot.consumers;
    for (const consumer of consumers) this.of(consumer.id).add(time, consumer.counters, lagOf(consumer), ageOf(consumer), interval);
    const counters = Object.fromEntries(["processed", "failed", "dead_lettered"].map((name) => [name, sum(consumers.map((each) => each.counters[name]))]));
    const lags = known(consumers.map(lagOf)), ages = known(consumers.map(ageOf));
    this.total.add(time, counters, lags.length ? sum(lags) : null, ages.length ? Math.max(...ages) : null, interval);
  }

  of(id) {
    if (!this.histories.has(id)) this.histories.set(id, new History());
    return this.histories.get(id);
  }
}
