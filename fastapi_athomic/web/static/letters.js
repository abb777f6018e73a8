// Dead letters of one consumer: a table, and one letter with what is known of it.

import { problemText, send } from "./actions.js";
import { Facts, NOTHING, Table, count, el, moment, say } from "./dom.js";

const place = (letter) => `${letter.original_topic ?? "?"} [${letter.original_partition ?? "?"}] at ${letter.original_offset ?? "?"}`;

export class Letters {
  constructor(actions, config, id) {
    this.actions = actions;
    this.config = config;
    this.id = id;
    this.told = el("p", { class: "quiet", role: "status" }, "They are read when you ask for them.");
    this.table = new Table("Dead letters", [
      { title: "Message", keep: true, node: (letter) => el("button", { type: "button", "aria-haspopup": "dialog", "data-letter": `${letter.partition}/${letter.offset}`, onclick: () => this.show(letter) }, place(letter)) },
      { title: "Error", text: (letter) => letter.error_type ?? NOTHING },
      { title: "What it says", text: (letter) => letter.error_message ?? NOTHING },
      { title: "Step", text: (letter) => letter.error_stage ?? NOTHING },
      { title: "Attempts", number: true, text: (letter) => count(letter.attempts) },
      { title: "Sent back", number: true, text: (letter) => count(letter.redrives) },
      { title: "Failed at", keep: true, text: (letter) => moment(letter.failed_at) },
    ], (letter) => `${letter.topic}/${letter.partition}/${letter.offset}`);
    this.table.element.hidden = true;
    const target = () => ({ id, done: () => this.load() });
    this.element = el("section", { "aria-label": "Dead letters" }, el("h3", {}, "Dead letters"),
      el("div", { class: "actions" }, el("button", { type: "button", id: "load-letters", onclick: () => this.load() }, "Show dead letters"),
        actions.button("redrive", target, "Send several back"), actions.button("discard", target, "Discard several")),
      this.told, this.table.element);
  }

  async load() {
    say(this.told, "Reading the dead letters …");
    const answer = await send(this.actions.url(this.id, "dlq?limit=100"));
    this.table.element.hidden = !answer.ok || !answer.body.letters.length;
    if (!answer.ok) return say(this.told, problemText(answer));
    const { letters, more } = answer.body;
    this.table.update(letters);
    say(this.told, letters.length ? `${letters.length}${more ? " of more" : ""} open` : "There are none.");
  }

  show(letter) {
    const target = () => ({
      id: this.id, scope: { partition: letter.partition, offset: letter.offset, ...(letter.original_topic ? { source: letter.original_topic } : {}) }, where: `: ${place(letter)}`,
      done: () => { dialog.close(); this.load(); },
    });
    const facts = new Facts("Error", "Step", "Attempts", "Failed at", "Message", "Dead letter", "Sent back already", "Bytes");
    facts.update({
      "Error": letter.error_type ?? NOTHING, "Step": letter.error_stage ?? NOTHING, "Attempts": letter.attempts, "Failed at": moment(letter.failed_at),
      "Message": place(letter), "Dead letter": `${letter.topic} [${letter.partition}] at ${letter.offset}`, "Sent back already": letter.redrives, "Bytes": count(letter.value_bytes),
    });
    const payload = el("div");
    const dialog = el("dialog", { "aria-labelledby": "letter-title", onclose: () => dialog.remove() },
      el("h2", { id: "letter-title" }, "Dead letter"), el("pre", { tabindex: "0" }, letter.error_message ?? "No text of the error is kept."), facts.element, payload,
      el("div", { class: "actions" }, this.actions.button("redrive", target), this.actions.button("discard", target),
        this.config.payloads ? el("button", { type: "button", onclick: () => this.payload(letter, payload) }, "Show payload") : null,
        el("button", { type: "button", onclick: () => dialog.close() }, "Close")));
    document.body.append(dialog);
    dialog.showModal();
  }

  async payload(letter, into) {
    const source = letter.original_topic ? `?source=${encodeURIComponent(letter.original_topic)}` : "";
    const answer = await send(this.actions.url(this.id, `dlq/${letter.partition}/${letter.offset}/payload${source}`));
    if (!answer.ok) return into.replaceChildren(el("p", { class: "problem", role: "alert" }, problemText(answer)));
    const { key, value, headers, decoded, not_decoded: why, masked } = answer.body;
    const text = (data) => data === null || data === undefined ? "none" : data.encoding === "base64" ? `${data.data} (base64)` : data.data;
    into.replaceChildren(...[
      masked ? el("p", { class: "quiet" }, "Some of it may be masked.") : null,
      el("h3", {}, "Value"), el("pre", { tabindex: "0" }, why ? text(value) : JSON.stringify(decoded, null, 2)), why ? el("p", { class: "quiet" }, why) : null,
      el("h3", {}, "Key"), el("pre", { tabindex: "0" }, text(key)),
      el("h3", {}, "Headers"), el("pre", { tabindex: "0" }, headers.map((header) => `${header.name}: ${text(header.value)}`).join("\n")),
    ].filter(Boolean));
  }
}
