// The page: what is shown where. Snapshots come from feed.js; the address behind # says which consumer is shown.

import { Actions } from "./actions.js";
import { Charts } from "./charts.js";
import { Detail, consumerTable, showBadge, showReasons } from "./detail.js";
import { el, say } from "./dom.js";
import { Feed } from "./feed.js";
import { Source, isOfGroup, membersOf } from "./history.js";

const base = new URL("../", import.meta.url).href; // where all consumers are; whatever prefix a proxy has added
const find = (id) => document.getElementById(id);
const ALL = "all that share a state store";
const sources = new Map(); // by the name of the process, or ALL
let shown = null; // the name of the one that is shown
let chosen = null; // the one that somebody chose; null: the one that came last
let wanted = null; // the id of the consumer that is shown; null: all are
let detail = null;
let config = null;
let actions = null;

const charts = new Charts();
find("overview-charts").append(...charts.elements);
const table = consumerTable(() => sources.get(shown));
find("consumers").append(table.element);

function receive(snapshot) {
  const { instance_id: instance, pid } = snapshot.process, group = isOfGroup(snapshot);
  const name = group ? ALL : `${instance} / ${pid}`;
  if (!sources.has(name)) {
    sources.set(name, new Source(group));
    find("processes").append(el("option", { value: name }, name));
    find("process-choice").hidden = sources.size < 2;
  }
  sources.get(name).add(snapshot, config.interval_seconds);
  shown = chosen ?? name;
  find("processes").value = shown;
  render();
}

function render() {
  const source = sources.get(shown);
  if (!source) return;
  const { health, consumers, process: who, time } = source.snapshot;
  const speaker = source.group ? `${membersOf(source.snapshot).length} processes, told by ${who.pid} on ${who.host}` : `Process ${who.pid} on ${who.host}`;
  showBadge(find("health"), source.status);
  say(find("process"), `${speaker}, as of ${new Date(time).toLocaleTimeString()}`);
  showReasons(find("reasons"), health.status, health.reasons);
  if (wanted === null) renderOverview(source, consumers);
  else renderDetail(source, consumers.find((each) => each.id === wanted), wanted);
}

function renderOverview(source, consumers) {
  const part = find("filter").value.trim().toLowerCase();
  const fits = (each) => [each.id, each.group_id, each.pattern ?? "", ...each.topics].some((text) => text.toLowerCase().includes(part));
  const found = consumers.filter(fits);
  table.update(found);
  table.element.hidden = !found.length;
  find("none").hidden = Boolean(found.length);
  say(find("none"), consumers.length ? "No consumer fits." : "There are no consumers.");
  charts.update(source.total);
}

function renderDetail(source, consumer, id) {
  if (!consumer) {
    detail = null;
    find("detail-body").replaceChildren(el("p", {}, "There is no such consumer here."));
    return;
  }
  if (detail?.id !== id) {
    detail = new Detail(id, actions, config);
    find("detail-body").replaceChildren(detail.body);
  }
  detail.update(consumer, source.of(id));
}

function turn() {
  const [, kind, name] = location.hash.split("/");
  const id = wanted = kind === "consumer" && name ? decodeURIComponent(name) : null;
  find("overview").hidden = id !== null;
  find("detail").hidden = id === null;
  say(find("detail-title"), id ?? "");
  document.title = id === null ? "Consumers" : `${id} – Consumers`;
  find("announcement").hidden = true;
  detail = null;
  find("detail-body").replaceChildren();
  render();
  if (id !== null) find("detail-title").focus();
}

function announce(text) {
  find("announcement").hidden = false;
  say(find("announcement"), text);
}

function tellConnection(kind, text) {
  find("connection").dataset.kind = kind;
  say(find("connection"), text);
}

function dress() {
  const select = find("theme");
  select.value = document.documentElement.dataset.theme ?? "auto";
  const redraw = () => {
    charts.forget();
    detail?.charts.forget();
    render();
  };
  select.addEventListener("change", () => {
    if (select.value === "auto") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("athomic-theme");
    } else {
      document.documentElement.dataset.theme = select.value;
      localStorage.setItem("athomic-theme", select.value);
    }
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

async function readConfig() {
  for (let tries = 0; ; tries += 1) {
    try {
      const response = await fetch(new URL("dashboard/config", base), { cache: "no-store" });
      if (response.ok) return await response.json();
      tellConnection("waiting", `The app answers ${response.status}; trying again`);
    } catch {
      tellConnection("waiting", "Not connected; trying again");
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(30, 2 ** tries) * 1000));
  }
}

dress();
find("filter").addEventListener("input", render);
find("processes").addEventListener("change", (event) => {
  chosen = shown = event.target.value;
  render();
});
window.addEventListener("hashchange", turn);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // what stands behind # says which consumer is shown
  find("main").focus();
});
config = await readConfig();
actions = new Actions(base, config.actions, announce);
say(find("version"), `fastapi-athomic ${config.version}`);
turn();
await new Feed(base, config.interval_seconds, receive, tellConnection).run();
