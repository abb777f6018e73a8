// Charts of a history, drawn by uPlot, which sets styles through the CSSOM only: the content security policy allows that.

import { count, el, rate, say, seconds } from "./dom.js";
import { SHOWN_SECONDS } from "./history.js";

const CHARTS = [
  { title: "Processed per second", lines: [["processed", "processed"]], text: rate },
  { title: "Lag in messages", lines: [["lag", "lag"]], text: count },
  { title: "Oldest one waiting", lines: [["age", "age"]], text: seconds },
  { title: "Failures per second", lines: [["failed", "failed attempts"], ["lettered", "dead letters"]], text: rate },
];

const inks = () => Object.fromEntries(["ink-1", "ink-2", "fill-1", "ink-quiet", "ink-grid"].map((name) => {
  const probe = document.body.appendChild(el("span", { class: name }));
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return [name, colour];
}));

const clock = (chart, values, axis, space, step) => values.map((value) => new Date(value * 1000).toLocaleTimeString("en-GB", step < 60 ? {} : { hour: "2-digit", minute: "2-digit" }));

class Chart {
  constructor(kind) {
    this.kind = kind;
    this.value = el("span");
    this.plot = el("div", { class: "plot", role: "img" });
    this.element = el("div", { class: "chart" }, el("h3", {}, kind.title, this.value), this.plot,
      kind.lines.length > 1 ? el("p", { class: "legend" }, kind.lines.map(([, label], number) => [el("span", { class: `swatch ink-${number + 1}` }, label), " "])) : null);
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (width && this.drawn && (this.drawn.width !== width || this.drawn.height !== height)) this.drawn.setSize({ width, height });
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width) return;
    const ink = inks();
    const axis = { stroke: ink["ink-quiet"], grid: { stroke: ink["ink-grid"], width: 1 }, ticks: { stroke: ink["ink-grid"], width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
    this.drawn = new uPlot({
      width, height,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { setScale: false, x: false }, sync: { key: "charts" } },
      hooks: { setCursor: [(chart) => this.showValue(chart.cursor.idx)] },
      scales: {
        x: { time: true, range: (chart, least, most) => [most - Math.min(SHOWN_SECONDS, Math.max(60, most - least)), most] },
        y: { range: (chart, least, most) => [0, Math.max(1, most * 1.1)] },
      },
      axes: [{ ...axis, space: 70, size: 24, values: clock }, { ...axis, space: 28, size: 46, values: (chart, values) => values.map(this.kind.text) }],
      series: [{}, ...this.kind.lines.map((line, number) => ({
        stroke: ink[`ink-${number + 1}`], width: 1.6, dash: number ? [5, 4] : undefined, fill: this.kind.lines.length > 1 ? undefined : ink["fill-1"], points: { show: false }, spanGaps: false,
      }))],
    }, this.data, this.plot);
  }

  update(history) {
    const now = history.times.at(-1) ?? Date.now() / 1000;
    const from = history.times.findIndex((time) => time >= now - SHOWN_SECONDS - 5);
    this.data = [history.times.slice(Math.max(0, from)), ...this.kind.lines.map(([name]) => history.series[name].slice(Math.max(0, from)))];
    if (this.drawn) this.drawn.setData(this.data);
    else this.draw();
    const text = this.kind.text(history.now(this.kind.lines[0][0]));
    if (!this.past) say(this.value, text);
    this.plot.setAttribute("aria-label", `${this.kind.title}, the last 5 minutes; now ${text}`);
  }

  /** The value below the pointer instead of the present one. */
  showValue(place) {
    this.past = place !== null && place !== undefined;
    this.value.classList.toggle("past", this.past);
    const shown = this.past ? place : this.data[0].length - 1;
    const text = this.kind.text(this.data[1][shown]);
    say(this.value, this.past ? `${text} at ${new Date(this.data[0][shown] * 1000).toLocaleTimeString("en-GB")}` : text);
  }

  forget() {
    this.drawn?.destroy();
    this.drawn = null;
  }
}

/** The four charts of one history. */
export class Charts {
  constructor() {
    this.charts = CHARTS.map((kind) => new Chart(kind));
    this.elements = this.charts.map((chart) => chart.element);
  }

  update(history) {
    for (const chart of this.charts) chart.update(history);
  }

  /** Draws anew at the next update: the colours have changed. */
  forget() {
    for (const chart of this.charts) chart.forget();
  }
}
