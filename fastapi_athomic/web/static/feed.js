// Where snapshots come from: the stream of events, or single requests where a stream does not come through.

const LONGEST_PAUSE = 30; // seconds between two tries
const POLLING_SECONDS = 60; // after so long without a stream it is tried again
const HIDDEN_SECONDS = 60; // a page that nobody sees for so long gives its stream to others

const pause = (seconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, seconds * 1000);
  signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

/** Calls `show(snapshot)` for each snapshot, and `tell(kind, text)` when the state of the connection changes. */
export class Feed {
  constructor(base, interval, show, tell) {
    this.base = base; // ends with a slash
    this.interval = interval;
    this.show = show;
    this.tell = tell;
    this.failures = 0;
    this.woken = new AbortController();
    this.watchVisibility();
  }

  async run() {
    let silent = 0;
    for (;;) {
      if (document.hidden && this.resting) await this.visible;
      const outcome = await this.stream();
      if (outcome === "spent") {
        this.failures = silent = 0;
        await pause(Math.random() * 0.2);
      } else if (outcome === "hidden") {
        this.tell("resting", "Resting while nobody looks");
      } else if (outcome === "denied") {
        await this.wait("Not allowed any more: reload the page to sign in");
      } else if (outcome === "stopping") {
        await this.wait("The app is stopping");
      } else if (outcome === "lost") {
        await this.wait("Not connected");
      } else { // refused or silent: somebody on the way does not let streams through, or there is no room
        silent += outcome === "silent" ? 1 : 2;
        if (silent >= 2) await this.poll();
        else await this.wait("Nothing comes");
      }
    }
  }

  async wait(text) {
    const most = Math.min(LONGEST_PAUSE, 2 ** this.failures);
    const seconds = most * (0.75 + Math.random() / 4);
    this.failures += 1;
    this.tell("waiting", `${text}; next try in ${Math.max(1, Math.round(seconds))} s`);
    await pause(seconds, this.woken.signal);
  }

  /** Reads one stream to its end, and says how it ended. */
  async stream() {
    const aborted = this.aborted = new AbortController();
    let silence = 0, why = "lost";
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => { why = "silent"; aborted.abort(); }, Math.max(8, 4 * this.interval) * 1000);
    };
    listen();
    try {
      const response = await fetch(new URL("events", this.base), { signal: aborted.signal, cache: "no-store", headers: { accept: "text/event-stream" } });
      if (response.status === 401 || response.status === 403) return "denied";
      if (!response.ok || !response.body) return "refused";
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return why;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const event = parse(part);
          if (event.name === "end") return event.data.reason === "stopping" ? "stopping" : "spent";
          if (event.name !== "snapshot") continue;
          listen();
          this.failures = 0;
          this.tell("live", "Live");
          this.show(event.data);
        }
      }
    } catch (error) {
      if (!(error instanceof SyntaxError) && this.resting) return "hidden";
      return why;
    } finally {
      clearTimeout(silence);
      aborted.abort();
    }
  }

  /** Asks again and again, for a minute. */
  async poll() {
    const end = Date.now() + POLLING_SECONDS * 1000, every = Math.max(2, this.interval);
    while (Date.now() < end) {
      if (document.hidden && this.resting) return;
      try {
        const answers = await Promise.all([this.ask("health"), this.ask("")]);
        if (answers.some((answer) => answer.status === 401 || answer.status === 403)) return this.wait("Not allowed any more: reload the page to sign in");
        const [health, consumers] = await Promise.all(answers.map((answer) => answer.json()));
        this.failures = 0;
        this.tell("polling", `Asking every ${every} s, as there is no stream`);
        this.show({ time: new Date().toISOString(), process: health.process, health, consumers: consumers.consumers ?? consumers });
      } catch {
        return this.wait("Not connected");
      }
      await pause(every);
    }
  }

  ask(path) {
    const url = path ? new URL(path, this.base) : this.base.replace(/\/$/, "");
    return fetch(url, { cache: "no-store", headers: { accept: "application/json" } });
  }

  watchVisibility() {
    let timer = 0, wake = () => {};
    this.resting = false;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (document.hidden) {
        timer = setTimeout(() => {
          this.resting = true;
          this.visible = new Promise((resolve) => { wake = resolve; });
          this.aborted?.abort();
        }, HIDDEN_SECONDS * 1000);
      } else {
        this.resting = false;
        wake();
        this.woken.abort(); // somebody looks: try at once
        this.woken = new AbortController();
      }
    });
  }
}

function parse(text) {
  let name = "message";
  const data = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5));
  }
  return { name, data: data.length ? JSON.parse(data.join("\n")) : null };
}
