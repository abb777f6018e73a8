// Elements and texts. Whatever comes from the server becomes a text node: nothing here reads HTML.

/** An element with attributes, listeners (`onclick`) and children: nodes, or what becomes text. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined).map((child) => child instanceof Node ? child : String(child)));
  return element;
}

/** Sets a text only where it differs, so that a selection by the reader survives. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const NOTHING = "–";

export function count(value) {
  return value === null || value === undefined ? NOTHING : value >= 1e6 ? short.format(value) : whole.format(value);
}

export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  return value >= 100 ? count(value) : String(Math.round(value * 10) / 10);
}

/** Seconds as people say them. */
export function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 10) return `${Math.round(value * 10) / 10} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} days`;
}

export function moment(text) {
  return text ? new Date(text).toLocaleString() : NOTHING;
}

/** A table whose rows stay while their values change. A column: {title, number, text(item), node(item), mark(item), by(item)}.
 *
 * `node` makes the content of a cell once, when its row comes; `text` sets it each time; `by` makes the column sortable.
 */
export class Table {
  constructor(label, columns, key) {
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    this.sorted = null;
    this.items = [];
    this.body = el("tbody");
    this.heads = columns.map((column) => el("th", { scope: "col", class: column.number && "number" },
      column.by ? el("button", { type: "button", onclick: () => this.sort(column) }, column.title) : column.title));
    this.element = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      el("table", {}, el("thead", {}, el("tr", {}, this.heads)), this.body));
  }

  sort(column) {
    this.sorted = this.sorted === column ? null : column;
    this.columns.forEach((each, number) => {
      if (each === this.sorted) this.heads[number].setAttribute("aria-sort", "descending");
      else this.heads[number].removeAttribute("aria-sort");
    });
    this.update(this.items);
  }

  update(items) {
    this.items = items;
    const shown = this.sorted ? [...items].sort((a, b) => (this.sorted.by(b) ?? -1) - (this.sorted.by(a) ?? -1)) : items;
    const old = this.rows;
    this.rows = new Map();
    let place = this.body.firstChild;
    for (const item of shown) {
      const name = this.key(item);
      const row = old.get(name) ?? this.make(item);
      old.delete(name);
      this.rows.set(name, row);
      row.item = item;
      this.columns.forEach((column, number) => {
        const cell = row.cells[number];
        if (column.text) say(cell, column.text(item));
        if (column.mark) cell.classList.toggle("alarm", Boolean(column.mark(item)));
        if (column.refresh) column.refresh(cell, item);
      });
      if (row.element === place) place = place.nextSibling;
      else this.body.insertBefore(row.element, place);
    }
    for (const row of old.values()) row.element.remove();
  }

  make(item) {
    const row = { item };
    row.cells = this.columns.map((column, number) => el(number ? "td" : "th",
      { scope: number ? null : "row", class: column.number ? "number" : column.keep ? "nowrap" : null }, column.node ? column.node(item) : null));
    row.element = el("tr", {}, row.cells);
    return row;
  }
}

/** Terms with their values, as a list that stays while the values change. */
export class Facts {
  constructor(...terms) {
    this.values = new Map(terms.map((term) => [term, el("dd")]));
    this.element = el("dl", { class: "facts" }, terms.map((term) => el("div", {}, el("dt", {}, term), this.values.get(term))));
  }

  update(values) {
    for (const [term, value] of Object.entries(values)) say(this.values.get(term), value);
  }
}
