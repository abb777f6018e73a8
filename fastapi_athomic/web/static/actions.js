// What can be done to a consumer: a dialog for each action, which says what it does and asks for a reason.

import { count, el, say } from "./dom.js";

const REASON = { name: "reason", label: "Reason", hint: "It is logged with your name", required: true, maxlength: 500 };

const KEPT = "Where processes share a state store it holds for all of them, also for those that start later, until it is set back.";

/** Each: {title, label, text, fields, dry: it can be tried first, danger, body(values, scope), path}. */
const ACTIONS = {
  pause: {
    label: "Pause", title: "Pause", text: "Nothing new is handled until somebody resumes it. Messages in the handler finish, and the partitions stay here.",
    fields: [{ name: "seconds", label: "For how many seconds", type: "number", min: 1, step: "any", hint: "Empty: until somebody resumes it" }, REASON],
    body: (values, scope) => ({ ...scope, ...(values.seconds ? { seconds: Number(values.seconds) } : {}) }),
  },
  resume: {
    label: "Resume", title: "Resume", text: "Messages are handled again.",
    fields: [{ ...REASON, required: false }], body: (values, scope) => ({ ...scope }),
  },
  restart: {
    label: "Restart", title: "Restart", text: "The consumer leaves its group and joins it again. What is in the handler finishes first. Several processes do it one after the other, so it may take a while.",
    fields: [REASON], body: () => ({}),
  },
  concurrency: {
    label: "Concurrency", title: "Set the concurrency of", text: `How many calls of the handler run at once in each process. ${KEPT}`,
    fields: [{ name: "value", label: "At once", type: "number", min: 1, step: 1, hint: "Empty: as in code and settings" }, REASON],
    body: (values) => ({ value: values.value ? Number(values.value) : null }),
  },
  rate: {
    label: "Rate", title: "Limit the rate of", text: `How many messages a second each process begins at most. ${KEPT}`,
    fields: [{ name: "rate", label: "Messages per second", type: "number", min: 0.001, step: "any", hint: "Empty: as in code and settings" },
      { name: "burst", label: "At once after a quiet time", type: "number", min: 1, step: 1, only: (values) => values.rate !== "" }, REASON],
    body: (values) => ({ messages_per_second: values.rate ? Number(values.rate) : null, ...(values.burst ? { burst: Number(values.burst) } : {}) }),
  },
  breaker: {
    label: "Breaker", title: "Switch the circuit breaker of", text: `While it is open nothing is handled. ${KEPT}`,
    fields: [{ name: "state", label: "State", options: [["open", "open: handle nothing until I say otherwise"], ["auto", "auto: try one message, which decides"], ["closed", "closed: handle all, the failures are forgotten"]] }, REASON],
    body: (values) => ({ state: values.state }),
  },
  seek: {
    label: "Seek", title: "Seek", text: "The consumer goes on at another place: further back, to handle messages again, or ahead, to skip some. Look first what that means.",
    dry: true, danger: true,
    fields: [{ name: "topic", label: "Topic", required: true }, { name: "partition", label: "Partition", type: "number", min: 0, step: 1, hint: "Empty: all partitions of the topic" },
      { name: "to", label: "To", options: [["offset", "an offset"], ["time", "a time"], ["beginning", "the beginning"], ["end", "the end"]] },
      { name: "offset", label: "Offset", type: "number", min: 0, step: 1, only: (values) => values.to === "offset", required: true },
      { name: "time", label: "Time, as on your clock", type: "datetime-local", step: 1, only: (values) => values.to === "time", required: true },
      { name: "force", label: "Do it in spite of the problems", type: "checkbox", only: (values, plan) => Boolean(plan?.problems?.length) }, REASON],
    body: (values) => ({
      topic: values.topic, ...(values.partition === "" ? {} : { partition: Number(values.partition) }),
      to: values.to === "offset" ? { offset: Number(values.offset) } : values.to === "time" ? { time: new Date(values.time).toISOString() } : values.to,
      force: Boolean(values.force),
    }),
  },
  redrive: { label: "Send back", title: "Send dead letters back of", text: "They go to this consumer again, and to nobody else.", dry: true, path: "dlq/redrive", letters: true },
  discard: { label: "Discard", title: "Discard dead letters of", text: "They are settled and not handled again. They stay in the topic, and the reason is kept with them.", dry: true, danger: true, path: "dlq/discard", letters: true },
};
const LETTER_FIELDS = [
  { name: "error_type", label: "Only those that failed with", hint: "A type of error, as in the table; empty: all" },
  { name: "limit", label: "At most", type: "number", min: 1, step: 1, required: true, value: "100" }, REASON,
];
for (const action of Object.values(ACTIONS)) {
  if (!action.letters) continue;
  action.fields = LETTER_FIELDS;
  action.body = (values, scope) => ({ ...scope, ...(scope.offset === undefined ? { limit: Number(values.limit), ...(values.error_type ? { error_type: values.error_type } : {}) } : {}) });
}

/** Sends one request. Returns {ok, status, body}; `body` may be a problem (RFC 9457). */
export async function send(url, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  try {
    const response = await fetch(url, { cache: "no-store", ...options });
    return { ok: response.ok, status: response.status, body: await response.json().catch(() => null) };
  } catch {
    return { ok: false, status: 0, body: null };
  }
}

export function problemText({ status, body }) {
  if (!status) return "The app does not answer.";
  const detail = body?.detail ?? body?.title ?? "It was refused";
  const text = Array.isArray(detail) ? detail.map((each) => `${(each.loc ?? []).join(".")}: ${each.msg}`).join("; ") : String(detail);
  return `${text} (${status}).${status === 401 || status === 403 ? " You may not do this." : ""}`;
}

export class Actions {
  constructor(base, known, announce) {
    this.base = base;
    this.known = new Set(known.filter((name) => name in ACTIONS));
    this.announce = announce;
  }

  url(id, path) {
    return new URL(`${encodeURIComponent(id)}/${path}`, this.base);
  }

  /** A button that opens the dialog of an action; null if there is no route for it. `target()`: {id, scope, values, done}. */
  button(name, target, label = ACTIONS[name].label) {
    if (!this.known.has(name)) return null;
    return el("button", { type: "button", "data-action": name, "aria-haspopup": "dialog", onclick: () => this.open(name, target()) }, label);
  }

  open(name, { id, scope = {}, values = {}, where = "", done = () => {} }) {
    const action = ACTIONS[name];
    const fields = action.fields.filter((field) => !(scope.offset !== undefined && action.letters && field.name !== "reason"));
    const inputs = new Map(fields.map((field) => [field, input(field, values[field.name] ?? field.value ?? "")]));
    const problem = el("p", { class: "problem", role: "alert", hidden: true });
    const result = el("div", { role: "status" });
    const go = el("button", { type: "submit", class: action.danger ? "danger" : "main" }, action.dry ? "Look first" : action.label);
    const close = el("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const wrapped = new Map(fields.map((field) => [field, el("div", { class: "field" },
      el("label", { for: `field-${field.name}` }, field.label), " ", inputs.get(field), field.hint ? el("small", { id: `hint-${field.name}` }, field.hint) : null)]));
    let plan = null; // what the dry run said; null: none for these inputs

    const read = () => Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? inputs.get(field).checked : inputs.get(field).value.trim()]));
    const adapt = () => {
      const now = read();
      for (const field of fields) {
        const shown = !field.only || field.only(now, plan);
        wrapped.get(field).hidden = !shown;
        inputs.get(field).disabled = !shown;
      }
      go.disabled = Boolean(action.dry && plan?.problems?.length && !now.force);
      say(go, action.dry && !plan ? "Look first" : action.label);
    };
    const submit = async (event) => {
      event.preventDefault();
      const given = read();
      if (!inputs.has(REASON) || given.reason || !REASON.required) problem.hidden = true;
      const dry = action.dry && !plan;
      const body = { ...action.body(given, scope), ...(given.reason ? { reason: given.reason } : {}), ...(action.dry ? { dry_run: dry } : {}) };
      if (dry && "force" in body) body.force = false;
      go.disabled = true;
      const answer = await send(this.url(id, action.path ?? name), body);
      go.disabled = false;
      problem.hidden = answer.ok;
      if (!answer.ok) return say(problem, problemText(answer));
      if (!dry && answer.body?.done === false) {
        say(problem, "It is not done everywhere.");
        problem.hidden = false;
        say(close, "Close");
        return result.replaceChildren(...(answer.body.processes ? byProcess(answer.body) : byPartition(answer.body)));
      }
      if (!dry) {
        dialog.close();
        this.announce(`${id}${where}: ${summary(name, answer.body)}`);
        return done();
      }
      plan = answer.body ?? {};
      result.replaceChildren(...planned(name, plan));
      adapt();
      if (!go.disabled) go.focus();
    };
    const form = el("form", { onsubmit: submit, oninput: (event) => {
      if (event.target.type !== "checkbox" && event.target !== inputs.get(fields.find((field) => field.name === "reason"))) {
        plan = null; // another dry run is needed
        result.replaceChildren();
      }
      adapt();
    } }, [...wrapped.values()], problem, result, el("div", { class: "actions" }, go, close));
    const dialog = el("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() },
      el("h2", { id: "dialog-title" }, `${action.title} ${id}${where}`), el("p", {}, action.text), form);
    document.body.append(dialog);
    adapt();
    dialog.showModal();
    ([...inputs.values()].find((each) => !each.disabled && each.required && !each.value) ?? go).focus();
  }
}

function input(field, value) {
  const common = { id: `field-${field.name}`, name: field.name, required: field.required, maxlength: field.maxlength, autocomplete: "off", "aria-describedby": field.hint && `hint-${field.name}` };
  if (field.options) {
    const select = el("select", common, field.options.map(([option, label]) => el("option", { value: option }, label)));
    if (value !== "") select.value = value;
    return select;
  }
  const made = el("input", { ...common, type: field.type ?? "text", min: field.min, step: field.step });
  if (field.type !== "checkbox") made.value = value;
  return made;
}

const many = (number, noun) => `${number === null || number === undefined ? "an unknown number of" : count(number)} ${noun}${number === 1 ? "" : "s"}`;

function planned(name, plan) {
  const lines = [];
  if (name === "seek") {
    lines.push(`${many(plan.skipped, "message")} would be skipped, ${many(plan.repeated, "message")} handled again${plan.exact === false ? " (at most)" : ""}.`);
    for (const each of plan.partitions ?? []) lines.push(`${each.topic} [${each.partition}]: from ${each.from_offset ?? "?"} to ${each.to_offset ?? "?"}`);
  } else {
    lines.push(`${many(plan.settled, "letter")} would be ${name === "redrive" ? "sent back" : "discarded"}, of ${count(plan.selected)} that fit.`);
    if (plan.exhausted) lines.push(`${many(plan.exhausted, "letter")} would stay: sent back too often already.`);
    for (const [why, number] of Object.entries(plan.refused ?? {})) lines.push(`${many(number, "letter")} would stay: ${why}`);
  }
  const warnings = [...(plan.problems ?? []), ...(plan.notes ?? [])];
  return [el("ul", {}, lines.map((line) => el("li", {}, line))), ...warnings.map((text) => el("p", { class: "problem" }, text))];
}

/** What became of it in each process. */
function byProcess({ processes, note }) {
  const lines = processes.map((each) => [each.instance_id, ": ", each.outcome.replaceAll("_", " "), each.detail ? `, ${each.detail}` : ""].join(""));
  return [el("ul", { "aria-label": "Processes" }, (lines.length ? lines : ["No process has answered."]).map((line) => el("li", {}, line))), note ? el("p", {}, note) : null].filter(Boolean);
}

/** What became of a seek in each partition. */
function byPartition({ partitions, notes }) {
  const lines = partitions.map((each) => `${each.topic} [${each.partition}]: ${each.done ? `goes on at ${each.to_offset}` : each.problems.join("; ") || "not done"}`);
  return [el("ul", { "aria-label": "Partitions" }, lines.map((line) => el("li", {}, line))), ...notes.map((text) => el("p", {}, text))];
}

function summary(name, body) {
  if (name === "redrive") return `${many(body?.settled, "dead letter")} sent back.`;
  if (name === "discard") return `${many(body?.settled, "dead letter")} discarded.`;
  if (name === "seek") return "it goes on at the other place.";
  const where = body?.processes?.length > 1 ? ` in ${body.processes.length} processes` : "";
  return { pause: "paused.", resume: "resumed.", restart: `restarted${where}.` }[name] ?? `done${where}.`;
}
